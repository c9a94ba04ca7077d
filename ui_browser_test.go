package streamprox

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/chromedp/chromedp/kb"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
)

// chatExplained is an answer to explain, which was given for the routes of explain.md; the
// path is hostile.
var chatExplained = strings.ReplaceAll(`{
	"listener": {"app": "layer4", "server": "srv0", "address": "tcp/:8080"}, "client": "192.0.2.1:49152", "given": 46,
	"routes": [{"of": "layer4", "routes": [{"name": "0", "answer": "yes", "handle": [{"name": "inspect", "inside": {
		"of": "inspect",
		"inspection": {"outcome": "http", "read": 46, "head": {"method": "GET", "host": "example.com", "path": HOSTILE, "version": "HTTP/1.1", "length": 46}},
		"routes": [
			{"name": "ssh", "answer": "no", "match": [{"matchers": [{"name": "inspected", "config": {"outcomes": ["silent", "other"]}, "answer": "no"}]}]},
			{"name": "chat", "answer": "yes", "match": [{"matchers": [{"name": "http_request", "config": [{"path": ["/chat/*"]}], "answer": "yes"}]}],
				"handle": [{"name": "rewrite_head", "does": "edits the head"}, {"name": "relay"}]},
			{"name": "2", "answer": "not asked"}
		]}}]}]}],
	"destination": {"kind": "relay", "why": "the first of 2 that are available", "address": "10.0.0.5:9000", "policy": "round_robin",
		"upstreams": [{"address": "10.0.0.5:9000", "streams": 3, "first": true}, {"address": "10.0.0.6:9000", "streams": 0, "out": "down"}],
		"sent": "R0VUIC8xIEhUVFAvMS4xDQpIb3N0OiBleGFtcGxlLmNvbQ0KWDogGzxiPlwNCg0K"},
	"next_request": {"fate": "routed", "why": "it is inspected like the first"}
}`, "HOSTILE", asJSON(hostile))

func asJSON(s string) string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic(err)
	}
	return string(raw)
}

// uiTest is the page in a browser.
type uiTest struct {
	*testing.T
	ctx     context.Context
	browser *browsertest.Browser
	admin   *stubAdmin
}

func openUI(t *testing.T, options ...chromedp.ExecAllocatorOption) *uiTest {
	t.Helper()
	chromium := browsertest.Find(t)
	s := steered(t)
	s.explained = chatExplained
	address := startUI(t, s)
	ctx, browser := browsertest.Start(t, chromium, 2*commandPatience, options...)
	u := &uiTest{t, ctx, browser, s}
	u.do("opening the page", chromedp.EmulateViewport(1280, 900), chromedp.Navigate(address), u.shows("#state[data-state=live]"))
	return u
}

func (u *uiTest) do(what string, steps ...chromedp.Action[chromedp.Void]) {
	u.Helper()
	if err := chromedp.Do(u.ctx, steps...); err != nil {
		u.Fatalf("%s: %v; console: %q; the page: %s", what, err, u.browser.Complaints(), u.text("body"))
	}
}

// shows waits until an element that matches the CSS selector is visible.
func (u *uiTest) shows(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.WaitVisible(chromedp.CSS(selector))
}

// until waits until the JavaScript expression is true.
func (u *uiTest) until(expression string) chromedp.Action[chromedp.Void] {
	return chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(commandPatience))
}

func (u *uiTest) is(expression string) string {
	u.Helper()
	got, err := chromedp.Run(u.ctx, chromedp.Evaluate[string]("String("+expression+")"))
	if err != nil {
		u.Fatalf("%s: %v", expression, err)
	}
	return got
}

// text returns what an element shows.
func (u *uiTest) text(selector string) string {
	got, err := chromedp.Run(u.ctx, chromedp.Evaluate[string](fmt.Sprintf("document.querySelector(%q)?.innerText ?? 'no such element'", selector)))
	if err != nil {
		return err.Error()
	}
	return got
}

// picture keeps a picture of the page, for who wants to look at it.
func (u *uiTest) picture(name string) {
	u.Helper()
	dir := os.Getenv("STREAMPROX_PICTURES")
	if dir == "" {
		return
	}
	content, err := chromedp.Run(u.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), content, 0o600)
	}
	if err != nil {
		u.Error(err)
	}
}

// TestUI uses the page as a person does who has a mouse.
func TestUI(t *testing.T) {
	u := openUI(t)
	u.do("the streams", u.shows(`tr[data-id="7f3a9c0000000012"]`), u.until(`document.querySelectorAll("#rows tr").length === 3`))

	// A stream that begins is shown.
	u.admin.add("7f3a9c0000000099", map[string]any{"age": 0.1, "client": "203.0.113.9:1234", "path": "/chat/new"})
	u.do("a new stream", u.shows(`#rows tr:first-child[data-id="7f3a9c0000000099"]`))
	row := strings.Join(strings.Fields(u.text(`tr[data-id="7f3a9c0000000099"]`)), " ")
	if want := "7f3a9c0000000099 0s 203.0.113.9:1234 chat relay 10.0.0.5:9000 GET example.com/chat/new open 101 1.0 KiB ↑ 20 KiB ↓ 1.6 KiB/s"; row != want {
		t.Errorf("the row: got %q, want %q", row, want)
	}

	// What a client has sent is text, and what cannot be seen is escaped.
	shown := u.text(`tr[data-id="7f3a9c0000000014"] .request`)
	if want := `GET example.com/\x1b[2J\u009b2J\u202e<script>alert(1)</script>\n\\`; shown != want {
		t.Errorf("the hostile path: got %q, want %q", shown, want)
	}
	if got := u.is(`document.querySelectorAll("script").length`); got != "1" {
		t.Errorf("%s scripts", got)
	}

	// Totals, charts, upstreams.
	u.do("two rounds", u.until(`document.querySelector("#chart-open .curve").getAttribute("d").split("L").length >= 2`))
	for selector, want := range map[string]string{
		"#chart-open b":                  "4",
		"#facts div:first-child":         "By destination\nrelay 3, http_app 1",
		`#upstream-list li:nth-child(1)`: "10.0.0.5:9000\nDrain\nhealthy 1 stream",
		`#upstream-list li:nth-child(2)`: "unix//run/app.sock\nUndrain\ndown draining 0 streams of 10, 3 fails",
		`#upstream-list li:nth-child(3)`: "10.0.0.7:9000\nDrain\nhealthy ejected 0 streams",
		`th[aria-sort=ascending]`:        "Age ▲",
		"#shown":                         "4",
	} {
		if got := strings.ReplaceAll(u.text(selector), "\n\n", "\n"); got != want && got+" ▲" != want {
			t.Errorf("%s: got %q, want %q", selector, got, want)
		}
	}
	u.picture("wide")

	// Order and filter.
	u.do("the order", chromedp.Click(chromedp.CSS("th[data-sort=rate] button")),
		u.shows("th[data-sort=rate][aria-sort=descending]"), u.shows(`#rows tr:first-child[data-id="7f3a9c0000000014"]`),
		chromedp.Click(chromedp.CSS("th[data-sort=rate] button")), u.shows("th[data-sort=rate][aria-sort=ascending]"), u.shows(`#rows tr:first-child[data-id="7f3a9c0000000013"]`))
	u.do("a filter", chromedp.SendKeys(chromedp.CSS("#filter [name=route]"), "ssh"), u.until(`document.querySelectorAll("#rows tr").length === 1`),
		chromedp.SendKeys(chromedp.CSS("#filter [name=client]"), "nobody"), u.shows("#filter-error"))
	if got, want := u.text("#filter-error"), `client: "nobody" is not an IP address or a range`; got != want {
		t.Errorf("a wrong filter: got %q, want %q", got, want)
	}
	u.do("no filter", chromedp.Click(chromedp.CSS("#filter [type=reset]")), u.until(`document.querySelectorAll("#rows tr").length === 4`), u.until(`document.querySelector("#filter-error").hidden`))

	// Drain.
	u.do("drain", chromedp.Click(chromedp.CSS(`#upstream-list li:first-child button`)), u.shows(`#upstream-list li:first-child[data-draining=true]`),
		chromedp.Click(chromedp.CSS(`#upstream-list li:nth-child(2) button`)), u.shows(`#upstream-list li:nth-child(2)[data-draining=false]`))

	// One stream: not killed, then killed.
	u.do("a stream", chromedp.Click(chromedp.CSS(`tr[data-id="7f3a9c0000000014"] button`)), u.shows("#detail-facts dd"))
	if got := u.text("#detail"); !strings.Contains(got, `GET example.com/\x1b[2J\u009b2J\u202e<script>alert(1)</script>\n\\ HTTP/1.1`) {
		t.Errorf("the stream: %q", got)
	}
	u.picture("detail")
	u.do("no kill", chromedp.Click(chromedp.CSS("#kill")), u.shows("#confirm"))
	u.picture("confirm")
	u.do("no kill", chromedp.Click(chromedp.CSS("#confirm-no")), chromedp.WaitNotVisible(chromedp.CSS("#confirm")))
	if got := u.admin.ids(); !slices.Contains(got, "7f3a9c0000000014") {
		t.Error("killed without a confirmation")
	}
	u.do("kill", chromedp.Click(chromedp.CSS("#kill")), u.shows("#confirm"), chromedp.Click(chromedp.CSS("#confirm-yes")),
		u.until(`document.querySelector("#detail-state").innerText === "Ended by you."`),
		chromedp.Click(chromedp.CSS("#detail-close")), u.until(`!document.querySelector('tr[data-id="7f3a9c0000000014"]')`))
	want := []string{"POST /streamprox/upstreams/10.0.0.5:9000/drain", "POST /streamprox/upstreams/unix%2F%2Frun%2Fapp.sock/undrain", "DELETE /streamprox/streams/7f3a9c0000000014"}
	if got := u.admin.requests(); !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}

	// Explain: a head that is pasted, one of a stream, and a listener that is not there.
	u.do("explain", chromedp.SetValue(chromedp.CSS("#question [name=text]"), "GET /chat/1 HTTP/1.1\nHost: example.com\n\n"),
		chromedp.Click(chromedp.CSS("#question > button")), u.shows(`#answer [data-route=chat][data-answer=yes] [data-matcher=http_request][data-answer=yes]`))
	for selector, want := range map[string]string{
		"#destination":         "to 10.0.0.5:9000: the first of 2 that are available, by the policy round_robin",
		"#next":                "next request: routed: it is inspected like the first",
		"#answer pre":          "GET /1 HTTP/1.1\\r\\n\nHost: example.com\\r\\n\nX: \\x1b<b>\\\\\\r\\n\n\\r\\n",
		"[data-route=ssh]":     "route ssh no\ninspected {\"outcomes\":[\"silent\",\"other\"]} no",
		`[data-route="2"]`:     "route 2 not asked",
		"[data-handler=relay]": "→ relay",
	} {
		if got := u.text("#answer " + strings.TrimPrefix(selector, "#answer ")); got != want {
			t.Errorf("explained, %s: got %q, want %q", selector, got, want)
		}
	}
	if got := u.text("#answer"); !strings.Contains(got, `outcome http GET /\x1b[2J\u009b2J\u202e<script>alert(1)</script>\n\\ HTTP/1.1, host example.com`) {
		t.Errorf("explained: %q", got)
	}
	u.picture("explained")
	u.do("explain a stream", chromedp.Click(chromedp.CSS(`tr[data-id="7f3a9c0000000099"] button`)), u.until(`document.querySelectorAll("#detail-facts dd").length > 5`),
		chromedp.Click(chromedp.CSS("#detail-explain")), u.until(`document.querySelector("#answer").innerText.includes("this is not known: the values of the fields. It was decided for relay 10.0.0.5:9000 by the route chat.")`),
		chromedp.SetValue(chromedp.CSS("#question [name=listen]"), ":9"), chromedp.Click(chromedp.CSS("#question > button")), u.shows("#explain-error"))
	if got := u.text("#explain-error"); !strings.HasPrefix(got, "listen: nothing with routes of streamprox listens on :9") {
		t.Errorf("a wrong listener: %q", got)
	}
	u.admin.mu.Lock()
	asked := u.admin.questions
	u.admin.mu.Unlock()
	if len(asked) != 2 || asked[0]["text"] != "GET /chat/1 HTTP/1.1\r\nHost: example.com\r\n\r\n" || asked[0]["listen"] != nil ||
		asked[1]["text"] != "GET /chat/new HTTP/1.1\r\nHost: example.com\r\n\r\n" || asked[1]["listen"] != ":9" || asked[1]["client"] != "203.0.113.9:1234" {
		t.Errorf("asked %q", asked)
	}

	if got := slices.DeleteFunc(u.browser.Complaints(), func(complaint string) bool {
		return strings.Contains(complaint, "status of 400") || strings.Contains(complaint, "status of 404") // which were wanted
	}); len(got) > 0 {
		t.Errorf("console: %q", got)
	}

	// Nobody is left to ask.
	u.admin.Close()
	u.do("no Caddy", u.shows("#state[data-state=error]"))
	if got := u.text("#state"); !strings.Contains(got, "asking the admin API at ") {
		t.Errorf("without a Caddy: %q", got)
	}
}

// TestUIPages turns the pages of a long list. The details of a stream are there at once.
func TestUIPages(t *testing.T) {
	u := openUI(t)
	for i := range 120 {
		u.admin.add(fmt.Sprintf("00000000%08x", i), map[string]any{"age": 1000 + i})
	}
	u.do("the first page", u.until(`document.querySelectorAll("#rows tr").length === 100`), u.shows("#next-page:enabled"), u.shows("#previous-page:disabled"))
	if got, want := u.text("#page")+" "+u.text("#shown"), "Page 1 100 of 123"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	u.do("the second page", chromedp.Click(chromedp.CSS("#next-page")), u.until(`document.querySelectorAll("#rows tr").length === 23`), u.shows("#next-page:disabled"),
		u.until(`document.activeElement.id === "previous-page"`))
	if got := u.text("#page"); got != "Page 2" {
		t.Errorf("got %q", got)
	}
	u.picture("pages")
	// The first look at the details has all of them: nothing is asked for before they show.
	if got := u.is(`(() => {
		document.querySelector("#rows tr button").click();
		const facts = document.querySelectorAll("#detail-facts dd").length;
		document.querySelector("#detail").close();
		return facts;
	})()`); got != "13" {
		t.Errorf("%s details at once, want 13", got)
	}
	u.do("another order", chromedp.Click(chromedp.CSS("th[data-sort=age] button")), u.until(`document.querySelector("#page").innerText === "Page 1"`), u.until(`document.querySelectorAll("#rows tr").length === 100`))
	u.do("the last page", chromedp.Click(chromedp.CSS("#next-page")), u.until(`document.querySelectorAll("#rows tr").length === 23`))

	// When all of a page have ended, the one before it is shown.
	for _, id := range u.admin.ids()[:23] {
		u.admin.remove(id)
	}
	u.do("what is left", u.until(`document.querySelectorAll("#rows tr").length === 100`), u.until(`document.querySelector("#pages").hidden`))
	if got := u.browser.Complaints(); len(got) > 0 {
		t.Errorf("console: %q", got)
	}
}

// TestUIKeyboard kills a stream by the keyboard alone, and tests where the focus goes.
func TestUIKeyboard(t *testing.T) {
	u := openUI(t)
	focused := `(document.activeElement.id || document.activeElement.getAttribute("aria-label") || document.activeElement.name || document.activeElement.innerText)`
	press := func(keys string) {
		t.Helper()
		u.do("pressing a key", chromedp.KeyEvent(keys))
	}
	// tabTo presses Tab until that has the focus.
	tabTo := func(want string) {
		t.Helper()
		var seen []string
		for range 60 {
			press(kb.Tab)
			got := u.is(focused)
			if got == want {
				return
			}
			seen = append(seen, got)
		}
		t.Fatalf("Tab does not come to %q, but to %q", want, seen)
	}
	u.do("the streams", u.until(`document.querySelectorAll("#rows tr").length === 3`))
	press(kb.Tab)
	if got := u.is(focused); got != "Skip to the streams" {
		t.Errorf("Tab comes to %q first", got)
	}
	press(kb.Enter)
	u.do("the skipped part", u.until(`location.hash === "#streams"`))
	tabTo("Stream 7f3a9c0000000013 of 198.51.100.7:40000")
	press(kb.Enter)
	u.do("the stream", u.until(`document.querySelectorAll("#detail-facts dd").length > 5`), u.until(`document.querySelector("#detail").contains(document.activeElement)`))

	// Escape leaves, and the focus is where it was.
	press(kb.Escape)
	u.do("leaving", chromedp.WaitNotVisible(chromedp.CSS("#detail")), u.until(focused+` === "Stream 7f3a9c0000000013 of 198.51.100.7:40000"`))

	// The focus stays with its row while others come and go.
	u.admin.add("7f3a9c0000000077", map[string]any{"age": 0.1})
	u.do("a new row", u.until(`document.querySelectorAll("#rows tr").length === 4`))
	if got := u.is(focused); got != "Stream 7f3a9c0000000013 of 198.51.100.7:40000" {
		t.Errorf("after a new row the focus is on %q", got)
	}

	press(kb.Enter)
	u.do("the stream", u.until(`document.querySelectorAll("#detail-facts dd").length > 5`))
	if u.is(focused) != "kill" {
		tabTo("kill")
	}
	press(kb.Enter)
	u.do("the question", u.shows("#confirm"))
	if got := u.is(focused); got != "confirm-no" { // Enter pressed twice must not kill
		t.Errorf("the question begins at %q", got)
	}
	tabTo("confirm-yes")
	press(kb.Enter)
	u.do("the end", u.until(`document.querySelector("#detail-state").innerText === "Ended by you."`), u.until(focused+` === "detail-close"`))
	press(kb.Enter)
	u.do("leaving", chromedp.WaitNotVisible(chromedp.CSS("#detail")), u.until(`!document.querySelector('tr[data-id="7f3a9c0000000013"]')`),
		u.until(`!document.body.isSameNode(document.activeElement) && !document.activeElement.closest("dialog")`))
	if got, want := u.admin.requests(), []string{"DELETE /streamprox/streams/7f3a9c0000000013"}; !slices.Equal(got, want) {
		t.Errorf("asked %q, want %q", got, want)
	}
	if got, want := u.text("#said"), "Ended the stream 7f3a9c0000000013."; got != want {
		t.Errorf("the page says %q, want %q", got, want)
	}

	// What a screen reader says of the parts: each field, button and table has a name.
	nameless := u.is(`Array.from(document.querySelectorAll("input, select, textarea, button, [role=img], table, dialog"))
		.filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || document.getElementById(e.getAttribute("aria-labelledby")) || e.innerText || e.textContent.trim()))
		.map((e) => e.outerHTML).join("\n")`)
	if nameless != "" {
		t.Errorf("without a name: %s", nameless)
	}
}

// TestUINarrow tests that nothing is wider than a phone, and that all can be read, by day and
// by night.
func TestUINarrow(t *testing.T) {
	for name, scheme := range map[string]string{"light": "1", "dark": "0"} {
		t.Run(name, func(t *testing.T) {
			u := openUI(t, chromedp.Flag("blink-settings", "preferredColorScheme="+scheme))
			if got := u.is(`matchMedia("(prefers-color-scheme: dark)").matches`); got != fmt.Sprint(name == "dark") {
				t.Fatalf("dark: %s", got)
			}
			u.narrow(name)
		})
	}
}

func (u *uiTest) narrow(name string) {
	u.admin.add("7f3a9c0000000088", map[string]any{"client": "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:50000", "upstream": "[2001:db8:aaaa:bbbb:cccc:dddd:eeee:ffff]:50000", "path": "/" + strings.Repeat("x", 500)})
	u.do("the streams", u.until(`document.querySelectorAll("#rows tr").length === 4`))
	u.do("explain", chromedp.Click(chromedp.CSS("#question > button")), u.shows("#answer [data-route=chat]"))
	wide := func(width int) {
		u.Helper()
		if got := u.is(fmt.Sprintf(`Array.from(document.querySelectorAll("html, body, main, header, table, #rows tr, td, .card, .tree, pre, dialog[open], form"))
			.filter((e) => e.scrollWidth > e.clientWidth + 1 || e.getBoundingClientRect().right > %d)
			.map((e) => e.id || e.className || e.tagName).join(" ")`, width)); got != "" {
			u.Errorf("at %d pixels: wider than there is room: %s", width, got)
		}
	}
	for _, width := range []int{1600, 1280, 1130, 1000, 700, 400} {
		u.do("a window", chromedp.EmulateViewport(int64(width), 900))
		wide(width)
		u.picture(fmt.Sprintf("%s-%d", name, width))
	}
	u.do("the stream", chromedp.Click(chromedp.CSS(`tr[data-id="7f3a9c0000000088"] button`)), u.until(`document.querySelectorAll("#detail-facts dd").length > 5`))
	wide(400)
	u.picture(name + "-detail")
	// WCAG 2.2, 1.4.3: text has 4.5 times the luminance of its ground, or the other way.
	faint := u.is(`(() => {
		const rgb = (color) => color.match(/[\d.]+/g).map(Number);
		const light = (color) => rgb(color).slice(0, 3).map((v) => v / 255).map((v) => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
			.reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
		const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (rgb(c)[3] !== 0) return c; } return "rgb(255, 255, 255)"; };
		return Array.from(document.querySelectorAll("body *")).filter((e) => e.checkVisibility() && !e.disabled && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
			.map((e) => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x); return [(a + 0.05) / (b + 0.05), e.outerHTML.slice(0, 80)]; })
			.filter(([ratio]) => !(ratio >= 4.5)).map(String).join("\n");
	})()`)
	if faint != "" {
		u.Errorf("hard to read: %s", faint)
	}
}

package main

import (
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"github.com/streamprox/caddy-streamprox/internal/browsertest"
)

// TestPage opens the page in Chromium and waits until it shows that each of its
// conversations works and who answers.
func TestPage(t *testing.T) {
	chromium := browsertest.Find(t)
	d := start(t, "-listen", "127.0.0.1:0")
	ctx, browser := browsertest.Start(t, chromium, 2*patience)

	if err := chromedp.Do(ctx,
		chromedp.Navigate("http://"+d.address+"/"),
		shows(`#page[data-state="answered"][data-destination="http_app"]`),
		shows(`#fetch[data-state="answered"][data-destination="http_app"]`),
		shows(`#echo[data-state="open"][data-destination="echo"]:not([data-returned="0"])`),
		shows(`#pictures[data-state="open"][data-destination="pictures"]`),
		waitFor(`Number(document.querySelector("#pictures").dataset.pictures) >= 3`),
	); err != nil {
		t.Fatalf("the page: %v; console: %q", err, browser.Complaints())
	}

	// What a person does with it.
	if err := chromedp.Do(ctx,
		chromedp.SendKeys(chromedp.ID("echo-text"), "typed by a test\r"),
		shows(`#echo[data-returned="2"]`),
		chromedp.Click(chromedp.CSS("#pictures .toggle")),
		shows(`#pictures[data-state="closed"]`),
		chromedp.Click(chromedp.CSS("#pictures .toggle")),
		shows(`#pictures[data-state="open"]`),
		chromedp.Click(chromedp.CSS("#fetch-again")),
		shows(`#fetch[data-state="answered"]`),
	); err != nil {
		t.Fatalf("using the page: %v; console: %q", err, browser.Complaints())
	}
	for _, test := range []struct{ what, expression, want string }{
		{
			"states and destinations",
			`Array.from(document.querySelectorAll(".card"), (card) =>
				[card.id, card.querySelector(".state").textContent, card.querySelector(".destination").textContent].join(" ")).join("\n")`,
			"page answered http_app\nfetch answered http_app\necho open echo\npictures open pictures",
		},
		{
			"last message",
			`document.querySelector("#echo-log").lastChild.textContent`,
			"← typed by a test",
		},
		{
			"alpha in the middle of the picture",
			`String(document.querySelector("#canvas").getContext("2d").getImageData(160, 90, 1, 1).data[3])`,
			"255",
		},
		{
			"chart: rows with answers",
			`Array.from(document.querySelectorAll("[data-answers]"), (row) => [row.dataset.answers,
				Number(row.querySelector(".count").textContent) > 0,
				parseFloat(row.querySelector(".bytes").textContent) > 0,
				Array.from(row.querySelectorAll("rect")).some((bar) => Number(bar.getAttribute("height")) > 0)].join(" ")).join("\n")`,
			"http_app true true true\necho true true true\npictures true true true",
		},
		{
			"answers of http_app",
			`document.querySelector("[data-answers=http_app] .count").textContent`,
			"3",
		},
		{
			"commands",
			`Array.from(document.querySelectorAll(".commands code"), (code) => code.textContent).join("\n")`,
			strings.ReplaceAll(`nc 127.0.0.1 PORT
printf 'EHLO me\n' | nc -N 127.0.0.1 PORT
curl -i --path-as-is 'http://127.0.0.1:PORT/..%2f'`, "PORT", strings.TrimPrefix(d.address, "127.0.0.1:")),
		},
		{
			"width beyond the window's",
			`String(document.documentElement.scrollWidth - document.documentElement.clientWidth)`,
			"0",
		},
	} {
		got, err := chromedp.Run(ctx, chromedp.Evaluate[string](test.expression))
		if err != nil || got != test.want {
			t.Errorf("%s: got %q, %v, want %q", test.what, got, err, test.want)
		}
	}
	// On a phone nothing is wider than the window either.
	if err := chromedp.Do(ctx, chromedp.EmulateViewport(400, 900)); err != nil {
		t.Fatal(err)
	}
	wide, err := chromedp.Run(ctx, chromedp.Evaluate[string](`Array.from(document.querySelectorAll("html, .answers, pre"))
		.filter((element) => element.scrollWidth > element.clientWidth || element.getBoundingClientRect().right > 400)
		.map((element) => element.id || element.tagName).join(" ")`))
	if err != nil || wide != "" {
		t.Errorf("at 400 pixels: wider than there is room: %q, %v", wide, err)
	}
	if got := browser.Complaints(); len(got) > 0 {
		t.Errorf("console: %q", got)
	}

	d.stop()
	if err := chromedp.Do(ctx,
		shows(`#echo[data-state="closed"]`),
		shows(`#pictures[data-state="closed"]`),
		chromedp.Click(chromedp.CSS("#echo .toggle")),
		shows(`#echo[data-state="error"]`),
		chromedp.Click(chromedp.CSS("#fetch-again")),
		shows(`#fetch[data-state="error"]`),
	); err != nil {
		t.Errorf("the page after the demo stopped: %v", err)
	}
}

// shows waits until an element that matches the CSS selector is visible.
func shows(selector string) chromedp.Action[chromedp.Void] {
	return chromedp.WaitVisible(chromedp.CSS(selector))
}

// waitFor waits until the JavaScript expression is true.
func waitFor(expression string) chromedp.Action[chromedp.Void] {
	return chromedp.Poll[chromedp.Void](expression, chromedp.WithPollingTimeout(patience))
}

"use strict";

// What clients have sent comes into the page as text nodes only, and with control characters
// escaped: inert() is on the way of each such value.

const $ = (id) => document.getElementById(id);

// element makes an element; strings among the children become text nodes.
function element(name, attributes = {}, ...children) {
	const made = document.createElement(name);
	for (const [key, value] of Object.entries(attributes)) {
		if (value !== undefined) made.setAttribute(key, value);
	}
	made.append(...children.filter((child) => child !== undefined && child !== ""));
	return made;
}

// inert writes what cannot be seen, or changes what is beside it, as a Go literal would.
const inert = (value) => escaped(value, /[\p{C}\p{Zl}\p{Zp}\\]/gu);

// configured is inert for JSON of the configuration, in which a backslash is just that.
const configured = (value) => escaped(JSON.stringify(value), /[\p{C}\p{Zl}\p{Zp}]/gu);

function escaped(value, characters) {
	return String(value ?? "").replace(characters, (c) => {
		const short = { "\\": "\\\\", "\t": "\\t", "\r": "\\r", "\n": "\\n" }[c];
		if (short) return short;
		const code = c.codePointAt(0).toString(16);
		return c < "\x80" ? "\\x" + code.padStart(2, "0") : code.length <= 4 ? "\\u" + code.padStart(4, "0") : "\\U" + code.padStart(8, "0");
	});
}

// setText changes a text node only if it has to: a selection in it then stays.
function setText(node, text) {
	if (node.textContent !== text) node.textContent = text;
}

function bytes(n) {
	if (!(n >= 1024)) return Math.round(n || 0) + " B";
	let unit = -1;
	do {
		n /= 1024;
		unit++;
	} while (n >= 1024 && unit < 4);
	return n.toFixed(n < 10 ? 1 : 0) + " " + ["KiB", "MiB", "GiB", "TiB", "PiB"][unit];
}

const rate = (n) => bytes(n) + "/s";
const number = (n) => Number(n ?? 0).toLocaleString("en");

function age(seconds) {
	const s = Math.max(0, Math.floor(seconds)), two = (n) => String(n).padStart(2, "0");
	if (s < 60) return s + "s";
	if (s < 3600) return Math.floor(s / 60) + "m" + two(s % 60) + "s";
	if (s < 86400) return Math.floor(s / 3600) + "h" + two(Math.floor(s / 60) % 60) + "m";
	return Math.floor(s / 86400) + "d" + two(Math.floor(s / 3600) % 24) + "h";
}

const counts = (of) => Object.entries(of ?? {}).sort((a, b) => b[1] - a[1]).map(([name, n]) => inert(name) + " " + number(n)).join(", ") || "none";
const request = (s) => s.method ? inert(`${s.method} ${s.host ?? ""}${s.path ?? ""}`) : s.outcome ? inert(s.outcome) : "";

// api asks the server of this page. An error has the status of the answer.
async function api(path, method = "GET", body) {
	const options = { method, signal: AbortSignal.timeout(20000), headers: {} };
	if (body !== undefined) {
		options.headers["Content-Type"] = "application/json";
		options.body = JSON.stringify(body);
	}
	let response;
	try {
		response = await fetch("api/" + path, options);
	} catch (cause) {
		throw Object.assign(new Error("caddy streamprox ui has ended, or does not answer", { cause }), { status: 0 });
	}
	if (response.ok) return response.json();
	const text = await response.text();
	let message = text;
	try {
		message = JSON.parse(text).error ?? text;
	} catch {
		// not from the admin API
	}
	throw Object.assign(new Error(inert(message)), { status: response.status });
}

// say tells what an action has done.
function say(text) {
	$("said").hidden = false;
	$("said").textContent = text;
}

/* Totals */

const samples = 120;
const charts = [
	{ key: "open", title: "Streams", show: number },
	{ key: "up", title: "Up", show: rate },
	{ key: "down", title: "Down", show: rate },
	{ key: "requests", title: "Requests", show: (n) => (n < 10 ? n.toFixed(1) : number(Math.round(n))) + "/s" },
];
for (const chart of charts) {
	const svg = (name, attributes) => {
		const made = document.createElementNS("http://www.w3.org/2000/svg", name);
		for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
		return made;
	};
	chart.values = [];
	chart.value = element("b", {}, "–");
	chart.area = svg("path", { class: "area" });
	chart.curve = svg("path", { class: "curve" });
	chart.picture = svg("svg", { viewBox: `0 0 ${samples - 1} 40`, preserveAspectRatio: "none", role: "img", "aria-label": chart.title });
	chart.picture.append(chart.area, chart.curve);
	$("charts").append(element("figure", { class: "card", id: "chart-" + chart.key }, element("figcaption", {}, chart.title + " ", chart.value), chart.picture));
}

function draw(chart, value) {
	chart.values.push(value);
	if (chart.values.length > samples) chart.values.shift();
	const top = Math.max(1, ...chart.values), first = samples - chart.values.length;
	const points = chart.values.map((v, i) => `${first + i} ${(39 - 37 * v / top).toFixed(1)}`);
	chart.curve.setAttribute("d", "M" + points.join("L"));
	chart.area.setAttribute("d", `M${first} 40L${points.join("L")}L${samples - 1} 40Z`);
	setText(chart.value, chart.show(value));
	chart.picture.setAttribute("aria-label", `${chart.title} in the last two minutes: now ${chart.show(value)}, at most ${chart.show(Math.max(...chart.values))}`);
}

let last; // the totals before, and when
function showStats(stats) {
	const now = performance.now(), open = Object.values(stats.streams ?? {}).reduce((a, b) => a + b, 0);
	const seconds = last ? (now - last.now) / 1000 : 0;
	// A Caddy that was started again counts from 0.
	const known = last && last.stats.since === stats.since && seconds > 0;
	const per = (name) => known ? Math.max(0, stats[name] - last.stats[name]) / seconds : 0;
	draw(charts[0], open);
	draw(charts[1], per("bytes_up"));
	draw(charts[2], per("bytes_down"));
	draw(charts[3], per("requests"));
	last = { stats, now };
	const since = new Date(stats.since);
	setText($("since"), isNaN(since) ? "" : "since " + since.toLocaleString());
	facts($("facts"), [
		["By destination", counts(stats.streams)],
		["Waiting", number(stats.waiting)],
		["Parked", number(stats.parked)],
		["Ended", counts(stats.ended)],
		["Requests", number(stats.requests)],
		["Bytes", `${bytes(stats.bytes_up)} up, ${bytes(stats.bytes_down)} down`],
	], true);
}

// facts fills a definition list, and keeps the elements that it has.
function facts(list, pairs, grouped) {
	pairs = pairs.filter(([, value]) => value !== undefined && value !== "");
	const names = pairs.map(([name]) => name).join("|");
	if (list.dataset.names !== names) {
		list.dataset.names = names;
		list.replaceChildren(...pairs.flatMap(([name]) => {
			const pair = [element("dt", {}, name), element("dd")];
			return grouped ? [element("div", {}, ...pair)] : pair;
		}));
	}
	list.querySelectorAll("dd").forEach((dd, i) => setText(dd, pairs[i][1]));
}

/* Streams */

const filter = $("filter");
const rows = new Map(); // by id

function query() {
	const asked = new URLSearchParams({ limit: "100" });
	for (const [name, value] of new FormData(filter)) {
		if (value.trim()) asked.set(name, value.trim());
	}
	if (places.length > 0) asked.set("after", places.at(-1));
	return asked;
}

// Where the pages begin that come before the one shown and that one itself; none: it is the first.
let places = [];
let nextPlace; // undefined: there is no next page

function turnTo(other) {
	places = other;
	return refresh();
}

$("next-page").addEventListener("click", () => turnTo([...places, nextPlace]));
$("previous-page").addEventListener("click", () => turnTo(places.slice(0, -1)));

function showPages(list) {
	nextPlace = list.next;
	const next = $("next-page"), previous = $("previous-page"), focused = document.activeElement;
	next.disabled = !nextPlace;
	previous.disabled = places.length === 0;
	$("pages").hidden = next.disabled && previous.disabled;
	setText($("page"), "Page " + number(places.length + 1));
	if (focused === next && next.disabled || focused === previous && previous.disabled) ($("pages").hidden ? $("streams") : next.disabled ? previous : next).focus({ preventScroll: true });
}

function makeRow(id) {
	const cell = (label, attributes = {}) => element("td", { role: "cell", "data-label": label, ...attributes });
	const row = element("tr", { role: "row", "data-id": id });
	const open = element("button", { type: "button", "aria-haspopup": "dialog" }, inert(id));
	open.addEventListener("click", () => openDetail(rows.get(id)?.stream ?? { id }));
	const part = { open, age: cell("Age", { class: "age" }), client: cell("From", { class: "client" }), route: cell("Route"), state: cell("State", { class: "state" }), bytes: cell("Bytes", { class: "number" }), rate: cell("Rate", { class: "number" }) };
	part.from = element("span", { class: "mono" });
	part.client.append(part.from);
	part.to = element("span");
	part.upstream = element("small", { class: "mono" });
	part.request = element("span", { class: "mono" });
	row.append(
		element("td", { role: "cell", class: "id" }, open), part.age, part.client, part.route,
		element("td", { role: "cell", class: "to", "data-label": "To" }, part.to, " ", part.upstream),
		element("td", { role: "cell", class: "request" }, part.request),
		part.state, part.bytes, part.rate);
	return { row, part };
}

function fillRow({ part }, s) {
	const what = request(s);
	setText(part.age, age(s.age));
	setText(part.from, inert(s.client));
	setText(part.route, inert(s.route) || "–");
	setText(part.to, inert(s.destination) || "–");
	setText(part.upstream, inert(s.upstream));
	setText(part.request, what || "–");
	part.request.title = what;
	setText(part.state, inert(s.state) + (s.status ? " " + s.status : ""));
	setText(part.bytes, `${bytes(s.bytes_up)} ↑ ${bytes(s.bytes_down)} ↓`.replace(/ (?=[↑↓KMGTPB])/g, "\u00a0"));
	setText(part.rate, rate(s.rate));
	part.open.setAttribute("aria-label", `Stream ${inert(s.id)} of ${inert(s.client)}`);
}

function showStreams(list) {
	const body = $("rows"), focused = document.activeElement, hadFocus = body.contains(focused);
	const focusedAt = hadFocus ? [...body.children].findIndex((row) => row.contains(focused)) : -1;
	const ids = new Set(list.streams.map((s) => s.id));
	for (const [id, { row }] of rows) {
		if (!ids.has(id)) {
			row.remove();
			rows.delete(id);
		}
	}
	list.streams.forEach((s, i) => {
		if (!rows.has(s.id)) rows.set(s.id, makeRow(s.id));
		const made = rows.get(s.id);
		made.stream = s;
		fillRow(made, s);
		if (body.children[i] !== made.row) body.insertBefore(made.row, body.children[i] ?? null);
	});
	if (hadFocus && document.activeElement !== focused) {
		// Its row was moved, or has ended: then the one in its place gets the focus.
		const next = body.contains(focused) ? focused : body.children[Math.min(focusedAt, body.children.length - 1)]?.querySelector("button");
		(next ?? $("streams")).focus({ preventScroll: true });
	}
	setText($("shown"), list.total > list.streams.length ? `${number(list.streams.length)} of ${number(list.total)}` : number(list.total));
	showPages(list);
	$("none").hidden = list.streams.length > 0;
	$("table").hidden = list.streams.length === 0;
	const order = filter.elements.sort.value;
	for (const head of document.querySelectorAll("th[data-sort]")) {
		const name = head.dataset.sort;
		if (order === name) head.setAttribute("aria-sort", "ascending");
		else if (order === "-" + name) head.setAttribute("aria-sort", "descending");
		else head.removeAttribute("aria-sort");
	}
	const listeners = [...new Set(list.streams.map((s) => /:\d+$/.exec(s.local ?? "")?.[0]).filter(Boolean))].sort();
	if ($("listeners").dataset.of !== listeners.join()) {
		$("listeners").dataset.of = listeners.join();
		$("listeners").replaceChildren(...listeners.map((value) => element("option", { value })));
	}
}

for (const head of document.querySelectorAll("th[data-sort]")) {
	head.firstElementChild.addEventListener("click", () => {
		const name = head.dataset.sort, order = filter.elements.sort;
		order.value = order.value === "-" + name ? name : "-" + name;
		turnTo([]);
	});
}

let typing;
filter.addEventListener("input", () => {
	clearTimeout(typing);
	typing = setTimeout(() => turnTo([]), 250);
});
filter.addEventListener("reset", () => setTimeout(() => turnTo([]))); // after the reset
filter.addEventListener("submit", (event) => {
	event.preventDefault();
	turnTo([]);
});

/* Upstreams */

const upstreams = new Map(); // by address

function makeUpstream(address) {
	const made = { state: element("span"), count: element("small"), button: element("button", { type: "button" }), draining: false };
	made.item = element("li", { class: "card", "data-address": address }, element("h3", { class: "mono" }, inert(address)), made.button, element("div", {}, made.state, " ", made.count));
	made.button.addEventListener("click", async () => {
		const action = made.draining ? "undrain" : "drain";
		made.button.disabled = true;
		try {
			showUpstream(await api(`upstreams/${encodeURIComponent(address)}/${action}`, "POST", {}));
			say(`${inert(address)}: ${made.draining ? "gets no new streams" : "gets new streams again"}`);
		} catch (error) {
			say(`${inert(address)}: ${error.message}`);
		}
		made.button.disabled = false;
		made.button.focus();
	});
	return made;
}

function showUpstream(u) {
	const made = upstreams.get(u.address);
	if (!made) return;
	made.draining = u.draining;
	made.item.dataset.draining = u.draining;
	const health = u.healthy ? ["good", "healthy"] : ["bad", "down"];
	const badges = [health, ...(u.ejected ? [["warn", "ejected"]] : []), ...(u.draining ? [["warn", "draining"]] : [])];
	if (made.state.dataset.of !== badges.join()) {
		made.state.dataset.of = badges.join();
		made.state.replaceChildren(...badges.flatMap(([kind, text]) => [element("span", { class: "badge " + kind }, text), " "]));
	}
	setText(made.count, `${number(u.streams)} ${u.streams === 1 ? "stream" : "streams"}${u.max_connections ? " of " + number(u.max_connections) : ""}${u.fails ? `, ${number(u.fails)} fails` : ""}`);
	setText(made.button, u.draining ? "Undrain" : "Drain");
	made.button.setAttribute("aria-label", (u.draining ? "Undrain " : "Drain ") + inert(u.address));
}

function showUpstreams(list) {
	const addresses = new Set(list.map((u) => u.address));
	for (const [address, { item }] of upstreams) {
		if (!addresses.has(address)) {
			item.remove();
			upstreams.delete(address);
		}
	}
	for (const u of list) {
		if (!upstreams.has(u.address)) {
			upstreams.set(u.address, makeUpstream(u.address));
			$("upstream-list").append(upstreams.get(u.address).item);
		}
		showUpstream(u);
	}
	$("no-upstreams").hidden = list.length > 0;
}

/* One stream */

let shown; // the stream of the dialog
let ended = false;

// openDetail opens the dialog with what the list has of a stream.
function openDetail(s) {
	const { id } = s;
	shown = s;
	ended = false;
	$("kill").disabled = false;
	$("detail-state").hidden = true;
	$("detail-facts").replaceChildren();
	delete $("detail-facts").dataset.names;
	$("detail-title").textContent = "Stream " + inert(id);
	if (s.started) showFacts(s);
	$("detail").showModal();
	showDetail();
}

function detailSays(text) {
	$("detail-state").hidden = false;
	setText($("detail-state"), text);
}

function showFacts(s) {
	facts($("detail-facts"), [
		["Request", s.method ? request(s) + " " + inert(s.proto) : ""],
		["Outcome", inert(s.outcome)],
		["Client", inert(s.client)],
		["Came in at", inert(s.local)],
		["Route", inert(s.route)],
		["Destination", inert(s.destination)],
		["Upstream", inert(s.upstream)],
		["State", inert(s.state)],
		["Status", s.status ? String(s.status) : ""],
		["Started", `${new Date(s.started).toLocaleString()}, ${age(s.age)} ago`],
		["Bytes", `${bytes(s.bytes_up)} up, ${bytes(s.bytes_down)} down`],
		["Rate", rate(s.rate)],
		["Last byte", age(s.idle) + " ago"],
	]);
}

async function showDetail() {
	const { id } = shown;
	if (ended) return;
	try {
		const s = await api("streams/" + encodeURIComponent(id));
		if (shown.id !== id || ended) return;
		shown = s;
		showFacts(s);
	} catch (error) {
		if (shown.id !== id) return;
		if (error.status === 404) hasEnded("The stream has ended.");
		else detailSays(error.message);
	}
}

function hasEnded(text) {
	ended = true;
	detailSays(text);
	$("kill").disabled = true;
	$("confirm").close();
	$("detail-close").focus();
}

$("kill").addEventListener("click", () => {
	$("confirm-text").textContent = `${inert(shown.id)}${shown.client ? ` of ${inert(shown.client)}` : ""}: the client and the upstream lose their connection.`;
	$("confirm").showModal();
});
$("confirm-no").addEventListener("click", () => $("confirm").close());
$("confirm-yes").addEventListener("click", async () => {
	const { id } = shown;
	$("confirm").close();
	try {
		await api("streams/" + encodeURIComponent(id), "DELETE");
		if (shown.id === id) hasEnded("Ended by you.");
		say(`Ended the stream ${inert(id)}.`);
		refresh();
	} catch (error) {
		if (error.status === 404) hasEnded("The stream had ended before.");
		else detailSays(error.message);
	}
});
$("detail-close").addEventListener("click", () => $("detail").close());
// Where the row has ended meanwhile, the browser has nowhere to put the focus back: it may
// leave it for a moment inside the dialog that is gone.
$("detail").addEventListener("close", () => {
	const focused = document.activeElement;
	if (focused === document.body || $("detail").contains(focused)) $("streams").focus({ preventScroll: true });
});

$("detail-explain").addEventListener("click", () => {
	const s = shown, form = $("question").elements;
	$("detail").close();
	form.listen.value = s.local ?? "";
	form.client.value = s.client ?? "";
	form.text.value = s.method ? `${s.method} ${/^[!-~]*$/.test(s.path ?? "") ? s.path : encodeURI(s.path)} HTTP/1.1\n${s.host ? `Host: ${s.host}\n` : ""}\n` : "";
	form.crlf.checked = true;
	form.end.checked = false;
	explainStream(s, s.method ? "The head is made of method, path and host: the query and the other fields of the request are not kept." : "The bytes of the stream are not kept: give those with which it began.");
});

/* Explain */

$("question").addEventListener("submit", (event) => {
	event.preventDefault();
	explain();
});

// explainStream shows where a stream goes by what is known of it, or else, as when it has ended
// meanwhile, what is made of the form.
async function explainStream(s, note) {
	try {
		const answer = await api(`streams/${encodeURIComponent(s.id)}?explain`);
		$("explain-error").hidden = true;
		const decided = answer.decided ? ` It was decided for ${inert(answer.decided.destination)}${answer.decided.route ? " by the route " + inert(answer.decided.route) : ""}.` : "";
		showAnswer(answer, `Of the stream ${inert(s.id)} this is not known: ${(answer.unknown ?? []).map(inert).join(", ")}.${decided}`);
	} catch {
		explain(note);
	}
}

async function explain(note) {
	const form = $("question").elements, text = form.text.value;
	const question = { text: form.crlf.checked ? text.replace(/\r?\n/g, "\r\n") : text };
	if (form.listen.value.trim()) question.listen = form.listen.value.trim();
	if (form.client.value.trim()) question.client = form.client.value.trim();
	if (form.end.checked) question.end = true;
	try {
		const answer = await api("explain", "POST", question);
		$("explain-error").hidden = true;
		showAnswer(answer, note);
	} catch (error) {
		$("answer").hidden = true;
		$("explain-error").hidden = false;
		$("explain-error").textContent = error.message;
		form.listen.focus();
	}
}

const answers = { yes: ["good", "yes"], no: ["none", "no"], "needs more bytes": ["warn", "needs more bytes"], failed: ["bad", "failed"], "not asked": ["none", "not asked"], unknown: ["warn", "unknown"] };

function badge(answer) {
	const [kind, text] = answers[answer] ?? ["none", inert(answer)];
	return element("span", { class: "badge " + kind }, text);
}

const because = (why) => why ? ": " + inert(why) : "";
const line = (...children) => element("span", { class: "line" }, ...children);

function inspection(i) {
	const head = i.head;
	return line("outcome ", element("b", {}, inert(i.outcome)),
		head ? element("code", {}, ` ${inert(head.method)} ${inert(head.path)}${head.query ? "?" + inert(head.query) : ""} ${inert(head.version)}, host ${inert(head.host) || "none"}`) : "",
		because(i.reason), i.clause ? ` (${inert(i.clause)})` : "");
}

function routeTree(list) {
	const tree = element("ul");
	for (const route of list.routes ?? []) {
		const taken = route.answer === "yes";
		const item = element("li", { class: taken ? "taken" : route.answer === "not asked" ? "skipped" : "", "data-route": inert(route.name), "data-answer": route.answer },
			line(`route ${inert(route.name)} `, taken ? element("span", { class: "badge good" }, "taken") : badge(route.answer), because(route.why)));
		const inside = element("ul");
		(route.answer === "not asked" ? [] : route.match ?? []).forEach((set, i) => {
			if (i > 0) inside.append(element("li", { class: "skipped" }, "or"));
			if (set.why) inside.append(element("li", {}, inert(set.why)));
			for (const m of set.matchers ?? []) {
				inside.append(element("li", { "data-matcher": inert(m.name), "data-answer": m.answer },
					line(element("code", {}, inert(m.name)), " ", m.config ? element("code", { class: "quiet" }, configured(m.config)) : "", " ", badge(m.answer), because(m.error))));
			}
		});
		for (const h of route.handle ?? []) {
			const handler = element("li", { "data-handler": inert(h.name) }, line("→ ", element("code", {}, inert(h.name)), because(h.does)));
			if (h.inside) {
				if (h.inside.inspection) handler.append(inspection(h.inside.inspection));
				handler.append(routeTree(h.inside));
			}
			inside.append(handler);
		}
		if (inside.children.length) item.append(inside);
		tree.append(item);
	}
	return tree;
}

// sentLines shows bytes as the lines of a Go literal.
function sentLines(base64) {
	return atob(base64).replace(/[^\n]*\n|[^\n]+$/g, (one) => one.replace(/[^ -~]|\\/g, (c) =>
		c === "\\" ? "\\\\" : c === "\r" ? "\\r" : c === "\n" ? "\\n" : c === "\t" ? "\\t" : "\\x" + c.charCodeAt(0).toString(16).padStart(2, "0")) + "\n").trimEnd();
}

function destination(d) {
	const to = {
		http_app: () => `to the HTTP server ${inert(d.server)}${d.listener ? ", " + inert(d.listener) : ""}`,
		relay: () => `to ${inert(d.address) || "an upstream"}${d.tls ? " over TLS" : ""}`,
		handler: () => `to the handler ${inert(d.handler)}`,
		answer: () => `answered with ${d.status || "an answer"}`,
		unknown: () => "not known",
	}[d.kind] ?? (() => "closed");
	const parts = [element("p", { id: "destination", "data-kind": d.kind }, element("b", {}, to()), because(d.why), d.policy ? `, by the policy ${inert(d.policy)}` : "")];
	if (d.upstreams?.length) {
		parts.push(element("ul", { class: "upstream-choice" }, ...d.upstreams.map((u) => element("li", {},
			element("code", {}, inert(u.address)), ` ${number(u.streams)} ${u.streams === 1 ? "stream" : "streams"} `,
			u.out ? element("span", { class: "badge bad" }, "out: " + inert(u.out)) : u.first ? element("span", { class: "badge good" }, "may be first") : "",
			u.ejected && !u.out ? element("span", { class: "badge warn" }, "ejected") : ""))));
	}
	if (d.sent) {
		parts.push(element("p", {}, `It gets ${number(atob(d.sent).length)} bytes:`), element("pre", { class: "sent mono" }, sentLines(d.sent)));
	}
	return parts;
}

function showAnswer(answer, note) {
	const l = answer.listener;
	$("answer").replaceChildren(...[
		element("h3", { id: "answer-title" }, `${inert(l.address)}, server ${inert(l.server)} of ${inert(l.app)}, ${number(answer.given)} bytes from ${inert(answer.client)}${l.tls ? ", inside TLS" : ""}`),
		note ? element("p", { class: "quiet" }, note) : "",
		answer.needs_more ? element("p", { class: "notice" }, "More bytes would decide. This is what happens if none come.") : "",
		...(answer.routes ?? []).map((list) => element("div", { class: "tree" }, list.inspection ? inspection(list.inspection) : "", routeTree(list))),
		element("div", { class: "outcome" }, ...destination(answer.destination),
			element("p", { id: "next" }, `next request: ${inert(answer.next_request?.fate)}${because(answer.next_request?.why)}`)),
	].filter(Boolean));
	$("answer").hidden = false;
	$("answer").focus();
	$("answer").scrollIntoView({ block: "nearest" });
}

/* Going on */

let paused = false;
let round = 0;

function setState(state, text) {
	$("state").dataset.state = state;
	setText($("state"), text);
}

$("pause").addEventListener("click", () => {
	paused = !paused;
	$("pause").setAttribute("aria-pressed", paused);
	if (paused) setState("paused", "paused");
	else refresh();
});

// refresh asks for everything once. Answers to an older question are dropped.
async function refresh() {
	const mine = ++round;
	const [streams, stats, list] = await Promise.allSettled([api("streams?" + query()), api("stats"), api("upstreams")]);
	if (mine !== round) return;
	if (streams.status === "fulfilled") {
		showStreams(streams.value);
		if (places.length > 0 && streams.value.streams.length === 0) turnTo(places.slice(0, -1)); // all of that page have ended
	}
	if (stats.status === "fulfilled") showStats(stats.value);
	if (list.status === "fulfilled") showUpstreams(list.value);
	const wrongFilter = streams.status === "rejected" && streams.reason.status === 400;
	$("filter-error").hidden = !wrongFilter;
	if (wrongFilter) setText($("filter-error"), streams.reason.message);
	if ($("detail").open) showDetail();
	if (paused) return;
	const failed = [streams, stats, list].find((result) => result.status === "rejected" && result.reason.status !== 400);
	if (failed) setState("error", failed.reason.message);
	else setState("live", "live");
}

// A page that nobody sees asks for nothing. One round follows another: a slow Caddy is not
// asked faster than it answers.
async function goOn() {
	for (;;) {
		if (!paused && !document.hidden) await refresh();
		await new Promise((done) => setTimeout(done, 1000));
	}
}
goOn();

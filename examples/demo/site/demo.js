"use strict";

// Each card shows one conversation: its state, and who answered.
function card(name) {
	const section = document.querySelector(`[data-case="${name}"]`);
	return {
		section,
		find: (selector) => section.querySelector(selector),
		state(state, detail) {
			section.dataset.state = state;
			section.querySelector(".state").textContent = detail ? `${state}: ${detail}` : state;
		},
		answered({ destination, address }) {
			section.dataset.destination = destination;
			section.querySelector(".destination").textContent = destination;
			section.querySelector(".address").textContent = address;
		},
	};
}

for (const [name, value] of Object.entries({ here: location.host, host: location.hostname, port: location.port || "80" })) {
	for (const element of document.querySelectorAll(`[data-${name}]`)) element.textContent = value;
}

// The chart: what each destination has answered, second by second.
const answers = new Map();
for (const row of document.querySelectorAll("[data-answers]")) {
	const svg = row.querySelector("svg");
	const bars = Array.from({ length: 30 }, (_, i) => {
		const bar = document.createElementNS("http://www.w3.org/2000/svg", "rect");
		bar.setAttribute("x", 2 * i);
		bar.setAttribute("width", 1.6);
		svg.append(bar);
		return bar;
	});
	answers.set(row.dataset.answers, { row, bars, seconds: bars.map(() => 0), count: 0, bytes: 0 });
}
function draw({ row, bars, seconds, count, bytes }) {
	const most = Math.max(...seconds);
	bars.forEach((bar, i) => {
		const height = most && (16 * seconds[i]) / most;
		bar.setAttribute("y", 16 - height);
		bar.setAttribute("height", height);
	});
	row.querySelector(".count").textContent = count;
	row.querySelector(".bytes").textContent =
		bytes < 1024 ? `${bytes} B` : bytes < 1 << 20 ? `${(bytes / 1024).toFixed(1)} KiB` : `${(bytes / (1 << 20)).toFixed(1)} MiB`;
}
function received(destination, bytes) {
	const chart = answers.get(destination);
	if (!chart) return;
	chart.seconds[chart.seconds.length - 1]++;
	chart.count++;
	chart.bytes += bytes;
	draw(chart);
}
setInterval(() => {
	for (const chart of answers.values()) {
		chart.seconds.push(0);
		chart.seconds.shift();
		draw(chart);
	}
}, 1000);
received(document.querySelector("#page").dataset.destination, performance.getEntriesByType("navigation")[0]?.encodedBodySize ?? 0);

// A request to the site.
const request = card("fetch");
async function whoami() {
	request.state("connecting");
	try {
		const response = await fetch("/whoami");
		const text = await response.text();
		if (!response.ok) throw new Error(`status ${response.status}`);
		received(response.headers.get("X-Destination"), text.length);
		request.answered({ destination: response.headers.get("X-Destination"), address: JSON.parse(text).address });
		document.querySelector("#fetch-body").textContent = JSON.stringify(JSON.parse(text), null, 1);
		request.state("answered");
	} catch (error) {
		request.state("error", error.message);
	}
}
document.querySelector("#fetch-again").addEventListener("click", whoami);
whoami();

// A WebSocket: its first message says who answers, the others go to onmessage.
function conversation(name, { onopen, onmessage }) {
	const shown = card(name);
	const toggle = shown.find(".toggle");
	let socket = null;

	function offer(action, word) {
		toggle.textContent = action;
		toggle.setAttribute("aria-label", `${action} ${word} the ${name}`);
	}

	function connect() {
		let greeted = false;
		socket = new WebSocket(`${location.protocol === "https:" ? "wss:" : "ws:"}//${location.host}/${name}`);
		shown.state("connecting");
		offer("Disconnect", "from");
		socket.onopen = () => shown.state("open");
		socket.onmessage = (event) => {
			received(name, event.data.size ?? event.data.length);
			if (greeted) return onmessage(event.data);
			greeted = true;
			shown.answered(JSON.parse(event.data));
			onopen?.();
		};
		socket.onclose = (event) => {
			if (shown.section.dataset.state === "connecting") shown.state("error", "no connection");
			else shown.state("closed", event.code === 1000 ? "" : "by the server");
			offer("Connect", "to");
			socket = null;
		};
	}

	toggle.addEventListener("click", () => (socket ? socket.close(1000) : connect()));
	return {
		...shown,
		connect,
		send(message) {
			if (socket?.readyState !== WebSocket.OPEN) return false;
			socket.send(message);
			return true;
		},
	};
}

// The echo.
const log = document.querySelector("#echo-log");
const input = document.querySelector("#echo-text");
function line(kind, text) {
	const item = document.createElement("div");
	item.className = kind;
	item.textContent = (kind === "sent" ? "→ " : "← ") + text;
	log.append(item);
	while (log.children.length > 50) log.firstChild.remove();
	log.scrollTop = log.scrollHeight;
}
function say(message) {
	line("sent", echo.send(message) ? message : `${message} (not sent: there is no connection)`);
}
const echo = conversation("echo", {
	onopen: () => say("hello from this page"),
	onmessage: (message) => {
		line("returned", message);
		echo.section.dataset.returned++;
	},
});
document.querySelector("#echo-form").addEventListener("submit", (event) => {
	event.preventDefault();
	if (input.value) say(input.value);
	input.value = "";
});
echo.connect();

// The pictures.
const canvas = document.querySelector("#canvas");
const count = document.querySelector("#pictures-count");
const pictures = conversation("pictures", {
	onmessage: async (file) => {
		const picture = await createImageBitmap(file);
		canvas.getContext("2d").drawImage(picture, 0, 0);
		picture.close();
		const drawn = ++pictures.section.dataset.pictures;
		count.textContent = `${drawn} ${drawn === 1 ? "picture" : "pictures"}, the last of ${(file.size / 1024).toFixed(1)} KiB`;
	},
});
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {
	pictures.state("closed", "your system asks for less motion");
} else {
	pictures.connect();
}

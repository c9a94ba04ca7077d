// An HTTP server on Node's http module that writes what it sees, one JSON object a
// line, to a file.
//
//	node server.js <port> <file>
'use strict';

const crypto = require('crypto');
const fs = require('fs');
const http = require('http');

const [port, file] = process.argv.slice(2);
const log = fs.openSync(file, 'a');

function record(req, body, complete) {
	const seen = { method: req.method, target: req.url, fields: req.rawHeaders, body, complete };
	fs.writeSync(log, JSON.stringify(seen) + '\n');
}

function serve(req, res) {
	if (req.url === '/a/refuse') {
		record(req, '', true);
		res.writeHead(401, { 'Content-Length': 0 }).end();
		return;
	}
	let body = '';
	let ended = false;
	req.setEncoding('latin1');
	req.on('data', (data) => { body += data; });
	req.on('end', () => {
		ended = true;
		record(req, body, req.complete);
		const content = `${req.method} ${req.url}`;
		res.writeHead(200, { 'Content-Length': content.length }).end(content);
	});
	req.on('error', () => {});
	req.on('close', () => {
		if (!ended) {
			record(req, body, false);
		}
	});
}

const server = http.createServer(serve);
server.keepAliveTimeout = 0; // it is not this server that ends a connection

server.on('checkContinue', (req, res) => {
	if (req.url !== '/a/refuse') {
		res.writeContinue();
	}
	serve(req, res);
});

// What follows the 101 is sent back as it came.
server.on('upgrade', (req, socket, head) => {
	record(req, '', true);
	socket.on('error', () => {});
	const accept = crypto.createHash('sha1')
		.update(req.headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11')
		.digest('base64');
	socket.write('HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n' +
		`Sec-WebSocket-Accept: ${accept}\r\n\r\n`);
	socket.write(head);
	socket.pipe(socket);
});

server.listen(Number(port), '127.0.0.1');

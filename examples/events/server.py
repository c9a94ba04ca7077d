"""A stream of events, one a second: server.py [<port>], by default 9000."""

import http.server
import sys
import time


class Events(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        print("begins", flush=True)
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        number = 0
        try:
            while True:
                self.wfile.write(b"data: %d\n\n" % number)
                number += 1
                time.sleep(1)
        except OSError:
            print("the client has left", flush=True)


port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
http.server.ThreadingHTTPServer(("127.0.0.1", port), Events).serve_forever()

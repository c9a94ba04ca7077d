"""A Socket.IO server that tells everybody what one says: server.py [<port>], by default 9000."""

import sys

import socketio
from aiohttp import web


@web.middleware
async def show(request, handler):
    """Print what comes, and by which proxy's word."""
    print(request.method, request.query.get("transport"), request.headers.get("Via", ""), flush=True)
    return await handler(request)


# It takes only requests from pages of its own host and scheme, as X-Forwarded-Proto
# tells that.
sio = socketio.AsyncServer(async_mode="aiohttp")
app = web.Application(middlewares=[show])
sio.attach(app)


@sio.event
async def say(sid, text):
    # sio.transport(sid) of Debian's version 5.7.2 fails.
    transport = sio.eio.transport(sio.manager.eio_sid_from_sid(sid, "/"))
    await sio.emit("said", {"text": text, "transport": transport})


port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
web.run_app(app, host="127.0.0.1", port=port, print=None)

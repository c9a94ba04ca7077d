"""Says each line to the Socket.IO server, and shows what others say:
client.py <url> [<transport>...], by default polling and then websocket."""

import asyncio
import sys

import socketio


async def main(url, transports):
    client = socketio.AsyncClient(reconnection=False, ssl_verify=False)

    @client.event
    async def said(message):
        print("%(text)s (by %(transport)s)" % message, flush=True)

    await client.connect(url, transports=transports or None)
    print("connected by", client.transport(), flush=True)
    while line := await asyncio.to_thread(sys.stdin.readline):
        await client.call("say", line.rstrip("\n"))
    await client.disconnect()


asyncio.run(main(sys.argv[1], sys.argv[2:]))

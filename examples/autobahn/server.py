"""A WebSocket server that returns each message: server.py [<port>], by default 9000."""

import sys

from autobahn.twisted.websocket import WebSocketServerFactory, WebSocketServerProtocol
from autobahn.websocket.compress import PerMessageDeflateOffer, PerMessageDeflateOfferAccept
from twisted.internet import reactor


class Echo(WebSocketServerProtocol):
    def onConnect(self, request):
        self.greeting = "%s asked %s for %s" % (request.origin, request.host, request.path)

    def onOpen(self):
        self.sendMessage(self.greeting.encode())

    def onMessage(self, payload, isBinary):
        self.sendMessage(payload, isBinary)


def accept(offers):
    """Compress, if the client offers it."""
    for offer in offers:
        if isinstance(offer, PerMessageDeflateOffer):
            return PerMessageDeflateOfferAccept(offer)


port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
factory = WebSocketServerFactory("ws://127.0.0.1:%d" % port)
factory.protocol = Echo
factory.setProtocolOptions(perMessageCompressionAccept=accept)
reactor.listenTCP(port, factory, interface="127.0.0.1")
reactor.run()

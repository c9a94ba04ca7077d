"""Twisted's forward proxy, with CONNECT: server.py [<port>], by default 9001.

It connects whoever reaches it to wherever they like. So it listens on 127.0.0.1, and what
stands before it says who may go where.
"""

import sys

from twisted.internet import reactor
from twisted.internet.endpoints import HostnameEndpoint, connectProtocol
from twisted.internet.protocol import Protocol
from twisted.web import http, proxy


class Remote(Protocol):
    """The connection to where the client wants to go."""

    def __init__(self, client):
        self.client = client

    def connectionMade(self):
        self.client.tunnel(self)

    def dataReceived(self, data):
        self.client.transport.write(data)

    def connectionLost(self, reason):
        self.client.transport.loseConnection()


class Request(proxy.ProxyRequest):
    def process(self):
        if self.method != b"CONNECT":
            return proxy.ProxyRequest.process(self)
        host, _, port = self.uri.decode("ascii").rpartition(":")
        endpoint = HostnameEndpoint(reactor, host.strip("[]"), int(port))
        connectProtocol(endpoint, Remote(self.channel)).addErrback(self.refuse)

    def refuse(self, failure):
        if self.channel:  # the client is still there
            self.setResponseCode(502)
            self.finish()


class Client(proxy.Proxy):
    """A client's connection: HTTP, until it is a tunnel."""

    requestFactory = Request
    remote = None

    def tunnel(self, remote):
        self.remote = remote
        self.setTimeout(None)
        # Each side reads no faster than the other one takes it.
        self.transport.unregisterProducer()
        self.transport.registerProducer(remote.transport, True)
        remote.transport.registerProducer(self.transport, True)
        self.transport.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        self.transport.resumeProducing()

    def dataReceived(self, data):
        if self.remote:
            self.remote.transport.write(data)
        else:
            proxy.Proxy.dataReceived(self, data)

    def connectionLost(self, reason):
        if self.remote:
            self.remote.transport.loseConnection()
        proxy.Proxy.connectionLost(self, reason)


class Factory(http.HTTPFactory):
    protocol = Client


port = int(sys.argv[1]) if len(sys.argv) > 1 else 9001
reactor.listenTCP(port, Factory(), interface="127.0.0.1")
reactor.run()

"""Pictures, ten a second, by WebSocket: server.py [<port>], by default 9000."""

import struct
import sys
import zlib

import txws
from twisted.internet import reactor
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import LoopingCall


def mask(data, key):
    """Mask or unmask: txWS calls array.tostring, which Python 3.9 has no more."""
    return bytes(byte ^ key[i % 4] for i, byte in enumerate(data))


def make_hybi07_frame(data, opcode=0x1):
    """Make a frame: txWS formats the length of a long one into a str, as b'...'."""
    if isinstance(data, str):
        data = data.encode()
    if len(data) > 0xFFFF:
        length = b"\x7f" + struct.pack(">Q", len(data))
    elif len(data) > 0x7D:
        length = b"\x7e" + struct.pack(">H", len(data))
    else:
        length = bytes([len(data)])
    return bytes([0x80 | opcode]) + length + data


txws.mask = mask
txws.make_hybi07_frame = make_hybi07_frame


def png(number, size=128):
    """Draw the picture of a number, as a PNG file."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + bytes(((x ^ y) + 8 * number) & 0xFF for x in range(size)) for y in range(size))
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


class Pictures(Protocol):
    """Knows nothing of WebSockets: it writes files."""

    number = 0

    def connectionMade(self):
        self.drawing = LoopingCall(self.draw)
        self.drawing.start(0.1)

    def draw(self):
        self.transport.write(png(self.number))
        self.number += 1

    def connectionLost(self, reason):
        self.drawing.stop()


port = int(sys.argv[1]) if len(sys.argv) > 1 else 9000
reactor.listenTCP(port, txws.WebSocketFactory(Factory.forProtocol(Pictures)), interface="127.0.0.1")
reactor.run()

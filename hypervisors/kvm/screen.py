"""A VM's screen as PNG, also from QEMU before 7.1, which gives PPM."""

from __future__ import annotations

import re
import struct
import zlib

import libvirt

from hypervisors.errors import HypervisorUnsupportedError

PNG = b"\x89PNG\r\n\x1a\n"
PPM_HEADER = re.compile(rb"P6\s+(\d+)\s+(\d+)\s+255\s")


def shoot(connection: libvirt.virConnect, domain: libvirt.virDomain, where: str) -> bytes:
    """Return the first screen of a running domain as PNG."""
    stream = connection.newStream(0)
    picture = bytearray()
    try:
        kind = domain.screenshot(stream, 0, 0)
        stream.recvAll(lambda _stream, part, into: into.extend(part), picture)
        stream.finish()
    except libvirt.libvirtError:
        stream.abort()
        raise
    if picture.startswith(PNG):
        return bytes(picture)
    if PPM_HEADER.match(picture):
        return ppm_to_png(bytes(picture))
    raise HypervisorUnsupportedError(f"{where}: its screen comes as {kind}, of which no PNG can be made")


def ppm_to_png(ppm: bytes) -> bytes:
    """Return a binary PPM picture of 8 bits per colour as PNG."""
    header = PPM_HEADER.match(ppm)
    if header is None:
        raise ValueError("not a binary PPM picture of 8 bits per colour")
    width, height = int(header[1]), int(header[2])
    row, body = width * 3, ppm[header.end() :]
    lines = b"".join(b"\0" + body[at : at + row] for at in range(0, height * row, row))
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return PNG + _chunk(b"IHDR", head) + _chunk(b"IDAT", zlib.compress(lines)) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

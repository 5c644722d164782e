"""A plain reader of PNG files of 16 bits a value, without interlacing, byte by byte."""

import struct
import zlib

import numpy as np


def read(file: bytes) -> np.ndarray:
    """The values of a file: uint16 [c, h, w]."""
    assert file[:8] == b"\x89PNG\r\n\x1a\n"
    at, data, names = 8, b"", []
    while at < len(file):
        (size,), name = struct.unpack_from(">I", file, at), file[at + 4 : at + 8]
        body = file[at + 8 : at + 8 + size]
        assert struct.unpack_from(">I", file, at + 8 + size) == (zlib.crc32(name + body),)
        names.append(name)
        if name == b"IHDR":
            w, h, depth, colour, *rest = struct.unpack(">IIBBBBB", body)
        data += body if name == b"IDAT" else b""
        at += 12 + size
    assert names[0] == b"IHDR" and names[-1] == b"IEND" and names.count(b"IEND") == 1
    assert depth == 16 and rest == [0, 0, 0]
    step = 2 * {0: 1, 4: 2, 2: 3, 6: 4}[colour]
    stream, size = zlib.decompress(data), step * w
    assert len(stream) == h * (1 + size)
    above, lines = bytes(size), []
    for y in range(h):
        kind, line = stream[y * (1 + size)], bytearray(stream[y * (1 + size) + 1 : (y + 1) * (1 + size)])
        for i in range(size):
            left, corner = (line[i - step], above[i - step]) if i >= step else (0, 0)
            up = above[i]
            nearest = min((left, up, corner), key=lambda v, p=left + up - corner: abs(p - v))  # type: ignore[misc]
            line[i] = (line[i] + (0, left, up, (left + up) // 2, nearest)[kind]) & 255
        above = bytes(line)
        lines.append(above)
    return np.frombuffer(b"".join(lines), ">u2").reshape(h, w, -1).transpose(2, 0, 1).astype(np.uint16)

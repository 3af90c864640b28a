"""The smallest pieces of the format: varints, and a cursor that never reads beyond the end."""

from __future__ import annotations

import struct

from calotype.errors import DamagedFile


def pack_varint(value: int) -> bytes:
    """An unsigned LEB128 number."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


class Reader:
    """A cursor over bytes that never reads beyond their end."""

    def __init__(self, data: bytes | memoryview, at: int = 0) -> None:
        self.data, self.at = memoryview(data), at

    @property
    def left(self) -> int:
        """Bytes that are left."""
        return len(self.data) - self.at

    def take(self, size: int, what: str) -> memoryview:
        """The next bytes."""
        if size > self.left:
            raise DamagedFile(f"{what} needs {size} bytes at offset {self.at}, {self.left} are left: the file is cut")
        self.at += size
        return self.data[self.at - size : self.at]

    def u8(self, what: str) -> int:
        """One byte."""
        return self.take(1, what)[0]

    def u32(self, what: str) -> int:
        """Four bytes."""
        return int(struct.unpack("<I", self.take(4, what))[0])

    def varint(self, what: str) -> int:
        """An unsigned LEB128 number of at most five bytes, as short as possible."""
        value = 0
        for shift in range(0, 35, 7):
            byte = self.u8(what)
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if byte == 0 and shift:
                    raise DamagedFile(f"{what} is written longer than needed")
                return value
        raise DamagedFile(f"{what} does not end within five bytes")

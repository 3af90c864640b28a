"""Names of images in archives: relative paths that lead nowhere else, and their form in a chunk (SPEC.md, 9)."""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

from calotype.errors import DamagedFile, InputError

MAX_NAME_BYTES = 1024
_FORBIDDEN = re.compile(r'[\\:*?"<>|\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]')
"""What paths may not hold on Windows, controls, and what turns the direction of text."""
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}
"""What Windows takes for devices, in any case and with any suffix."""


def fault_of(name: str) -> str | None:
    """Why a name is not allowed, if it is not: it must be a relative path of plain parts on every system."""
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is no Unicode text"
    if not 1 <= size <= MAX_NAME_BYTES:
        return f"has {size} bytes, not within 1..{MAX_NAME_BYTES}"
    if found := _FORBIDDEN.search(name):
        return f"holds {found[0]!r}, which paths may not hold"
    if any(part in ("", ".", "..") or part != part.strip(" ") or part.endswith(".") for part in name.split("/")):
        return "is no plain relative path"
    if any(part.split(".")[0].rstrip(" ").upper() in _DEVICES for part in name.split("/")):
        return "names a device of Windows"
    return None


def check(name: str) -> str:
    """The name itself, if an archive may hold it.

    Raises:
        InputError: If it may not.
    """
    if fault := fault_of(name):
        raise InputError(f"the name {name!r} {fault}: an archive cannot hold it")
    return name


def pack(names: Sequence[str]) -> bytes:
    """The names of a chunk's images as one zlib stream; nothing for no names."""
    return zlib.compress("\0".join(map(check, names)).encode(), 9) if names else b""


def unpack(data: bytes, count: int) -> list[str]:
    """The names of a chunk of `count` images; none if it has none.

    Raises:
        DamagedFile: If they are not as many, or one is not allowed.
    """
    if not data:
        return []
    inflater = zlib.decompressobj()
    try:
        text = inflater.decompress(data, count * (MAX_NAME_BYTES + 1)).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise DamagedFile(f"names of a chunk cannot be read: {error}") from error
    names = text.split("\0")
    if len(names) != count or not inflater.eof or inflater.unused_data:
        raise DamagedFile(f"a chunk of {count} images has {len(names)} names, or more than names")
    return [checked(name) for name in names]


def checked(name: str) -> str:
    """The name itself, as an archive holds it.

    Raises:
        DamagedFile: If archives may not hold it.
    """
    if fault := fault_of(name):
        raise DamagedFile(f"the name {name!r} {fault}: the archive is damaged or means harm")
    return name

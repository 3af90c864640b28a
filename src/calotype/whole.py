"""Files that are whole or not there, whatever happens while they are written."""

from __future__ import annotations

import os
import secrets
import shutil
from contextlib import suppress
from pathlib import Path


def write_whole(target: Path, data: bytes) -> None:
    """Write a file so that a reader finds what stood there or all of the new content, never a part of it.

    The content goes into a new file beside the target, and onto the disk, then takes the target's place, and who may
    read it, in one step. If anything fails, the target stays as it was. A process killed meanwhile leaves a file
    `.calotype-*.tmp`, no more.

    Raises:
        OSError: If it cannot be written, as when the disk is full.
    """
    fresh = target.with_name(f".calotype-{secrets.token_hex(8)}.tmp")
    try:
        with fresh.open("xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        with suppress(FileNotFoundError):
            shutil.copymode(target, fresh)
        fresh.replace(target)
    finally:
        fresh.unlink(missing_ok=True)

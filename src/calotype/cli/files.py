"""Which files to read and write: folders, mirrored trees, standard streams, and writes that are whole or not at all."""

from __future__ import annotations

import io
import mmap
import os
import sys
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import typer

from calotype.errors import InputError, NotCalotype
from calotype.header import MAGIC
from calotype.whole import write_whole

STANDARD = "-"
"""Standard input or output, as an argument."""


@dataclass(frozen=True)
class Job:
    """One file to make.

    Attributes:
        source: Where from; None is standard input.
        target: Where to; None is standard output.
        keep_time: Whether the target takes the source's time of modification.
    """

    source: Path | None
    target: Path | None
    keep_time: bool = False


@dataclass(frozen=True)
class Plan:
    """The jobs of a command.

    Attributes:
        jobs: One for each file to make.
        skipped: How many files of its folders it leaves alone.
        unread: Why folders could not be read.
    """

    jobs: list[Job]
    skipped: int = 0
    unread: tuple[OSError, ...] = ()


def plan(
    inputs: list[str], output: str | None, suffix: str, *, recursive: bool, wanted: Callable[[Path], bool]
) -> Plan:
    """Pair every input with its output.

    Args:
        inputs: Files, `-`, and folders if `recursive`.
        output: What stands after `-o`: a file for one input, else a folder; `-`; or None for beside the input.
        suffix: Suffix of the outputs that `output` does not name.
        recursive: Whether to walk through folders, mirroring them under `output`.
        wanted: Which files of a folder to take.

    Raises:
        typer.BadParameter: If the inputs do not go with the output.
    """
    several = recursive or len(inputs) > 1
    if several and STANDARD in inputs:
        raise typer.BadParameter("standard input goes alone, without --recursive")
    if several and output == STANDARD:
        raise typer.BadParameter("standard output takes one file, without --recursive")
    source = None if inputs == [STANDARD] else Path(inputs[0])
    if output == STANDARD or (source is None and output is None):
        return Plan([Job(source, None)])
    if output is not None and not _is_folder(output, suffix, several=several):
        return Plan([Job(source, Path(output))])
    if source is None:
        raise typer.BadParameter(f"{output} is a folder: standard input needs a file after -o")
    plans = [_beside_or_under(Path(p), output, suffix, len(inputs), recursive, wanted) for p in inputs]
    unread = tuple(error for p in plans for error in p.unread)
    return Plan([job for p in plans for job in p.jobs], sum(p.skipped for p in plans), unread)


def _is_folder(output: str, suffix: str, *, several: bool) -> bool:
    path = Path(output)
    if path.is_dir() or output.endswith(("/", os.sep)):
        return True
    if several and (path.exists() or path.suffix.lower() == suffix):
        raise typer.BadParameter(f"{output} is a file: several inputs, or --recursive, need a folder after -o")
    return several


def _beside_or_under(
    root: Path, output: str | None, suffix: str, inputs: int, recursive: bool, wanted: Callable[[Path], bool]
) -> Plan:
    """The jobs of one input, which is a file or a folder."""
    if not (recursive and root.is_dir()):
        folder = root.parent if output is None else Path(output)
        return Plan([Job(root, folder / f"{root.stem}{suffix}", recursive)])
    folder = root if output is None else Path(output)
    if output is not None and inputs > 1:
        folder /= root.resolve().name
    files, unread = files_under(root)
    chosen = [path for path in files if wanted(path)]
    jobs = [Job(path, folder / path.relative_to(root).with_suffix(suffix), keep_time=True) for path in chosen]
    return Plan(jobs, len(files) - len(chosen), unread)


def files_under(root: Path) -> tuple[list[Path], tuple[OSError, ...]]:
    """All files in a folder and its folders, sorted, and why folders could not be read."""
    unread: list[OSError] = []
    walk = os.walk(root, onerror=unread.append)
    paths = (Path(folder, name) for folder, _, names in walk for name in names)
    return sorted(path for path in paths if path.is_file()), tuple(unread)


def wanted_under(root: Path, wanted: Callable[[Path], bool]) -> list[Path]:
    """The wanted files in a folder and its folders, sorted.

    Raises:
        OSError: If one of the folders cannot be read.
    """
    files, unread = files_under(root)
    if unread:
        raise unread[0]
    return [path for path in files if wanted(path)]


def check_target(job: Job, *, overwrite: bool) -> None:
    """Refuse, before any work, to replace what must not be replaced.

    Raises:
        InputError: If the target is the source or a terminal.
        FileExistsError: If the target exists and `overwrite` is false.
    """
    target = job.target
    if target is None:
        if sys.stdout.isatty():
            raise InputError("standard output is a terminal: write to a file with -o, or into a pipe")
    elif job.source is not None and target.resolve() == job.source.resolve():
        raise InputError("would be replaced by its own output: name another with -o")
    elif os.path.lexists(target) and not overwrite and not _is_device(target):
        raise FileExistsError(f"{target} exists: use --overwrite to replace it")


def is_done(job: Job, is_whole: Callable[[Path], bool]) -> bool:
    """Whether a job was done before: its output is whole, and no older than its input.

    Raises:
        OSError: If the input is gone.
    """
    source, target = job.source, job.target
    if source is None or target is None or not target.is_file() or target.samefile(source):
        return False
    return target.stat().st_mtime_ns >= source.stat().st_mtime_ns and is_whole(target)


def _is_device(path: Path) -> bool:
    """Whether a path is a pipe or a device, such as /dev/null: written into, never replaced."""
    return path.exists() and not path.is_file() and not path.is_dir()


@contextmanager
def opened(source: Path | None) -> Generator[BinaryIO]:
    """A source as a stream that can seek; None is standard input."""
    if source is None:
        yield io.BytesIO(sys.stdin.buffer.read())
        return
    if source.is_dir():
        raise InputError("is a folder: name its files; encode and decode walk through folders with --recursive")
    with source.open("rb") as stream:
        yield stream if stream.seekable() else io.BytesIO(stream.read())


def read_calo(source: Path | None) -> bytes:
    """The bytes of a `.calo` file. Of any other file only the first bytes are read, however large it is.

    Raises:
        NotCalotype: If it does not begin like one.
    """
    with opened(source) as stream:
        start = stream.read(len(MAGIC))
        if start != MAGIC:
            raise NotCalotype("not a calotype file")
        return start + stream.read()


def map_calo(source: Path | None) -> bytes | memoryview:
    """The same as a view into the file where it is one, of which only what is used is read."""
    if source is None or not source.is_file() or not source.stat().st_size:
        return read_calo(source)
    with source.open("rb") as stream:
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def write(job: Job, data: bytes) -> None:
    """Write a job's output, whole or not at all."""
    if job.target is None:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
        return
    try:
        if _is_device(job.target):
            job.target.write_bytes(data)
        else:
            target = Path(os.path.realpath(job.target))
            target.parent.mkdir(parents=True, exist_ok=True)
            write_whole(target, data)
            if job.keep_time and job.source is not None:
                _copy_time(job.source, target)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(job.target)) from error


def _copy_time(source: Path, target: Path) -> None:
    with suppress(FileNotFoundError):  # a source that is gone by now was read all the same
        status = source.stat()
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))

"""`calotype unpack` and `calotype extract`."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from calotype import arrays, library
from calotype.archive import Archive, Entry
from calotype.cli import files, options, pictures
from calotype.cli.console import FAILURES, complain, printable, say, shown, watched
from calotype.cli.files import Job
from calotype.cli.pictures import NPY
from calotype.errors import InputError


def opened(path: Path, model: str | None) -> Archive:
    """An archive to read, with a model to use if one is named."""
    return Archive(path, None if model is None else library.find_any(model))


def unpack(
    archive: options.Archive,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="A folder; or an .npy or .idx file for small images.")],
    format: options.Format = None,  # noqa: A002
    model: options.ModelToDecode = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Unpack all images of an archive."""
    with opened(archive, model) as source:
        if not arrays.is_array(out):
            suffix = pictures.suffix_to_write(format, None, [NPY])
            _write_all(source, source.entries, out, suffix, overwrite, quiet)
            return
        if format is not None:
            raise typer.BadParameter(f"--format does not go with {out}, which is one file of many images")
        job = Job(archive, out)
        files.check_target(job, overwrite=overwrite)
        data = arrays.serialise(out, source.arrays())
    files.write(job, data)
    if not quiet:
        say(f"{shown(out)}: {len(source)} images  {len(data):,} bytes")


def extract(
    archive: options.Archive,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Images, as `calotype ls` names them.")],
    output: Annotated[
        str | None, typer.Option("-o", "--output", help="A file for one image, else a folder; - for stdout.")
    ] = None,
    format: options.Format = None,  # noqa: A002
    model: options.ModelToDecode = None,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
) -> None:
    """Take single images out of an archive."""
    several = len(names) > 1
    if several and output == files.STANDARD:
        raise typer.BadParameter("standard output takes one image")
    suffix = pictures.suffix_to_write(format, None if several or output == files.STANDARD else output, [NPY])
    with opened(archive, model) as source:
        entries = [source.find(name) for name in names]
        if several or output is None or Path(output).is_dir() or output.endswith(("/", os.sep)):
            _write_all(source, entries, Path(output or "."), suffix, overwrite, quiet)
        else:
            target = None if output == files.STANDARD else Path(output)
            _, lost = _write(source, entries[0], Job(archive, target), suffix, overwrite=overwrite)
            _note(entries[0], lost, quiet=quiet)


def _write(source: Archive, entry: Entry, job: Job, suffix: str, *, overwrite: bool) -> tuple[int, tuple[str, ...]]:
    """Write an image; the bytes that it takes, and what is lost."""
    files.check_target(job, overwrite=overwrite)
    data, lost = _serialised(source, entry, suffix)
    files.write(job, data)
    return len(data), lost


def _serialised(source: Archive, entry: Entry, suffix: str) -> tuple[bytes, tuple[str, ...]]:
    file = source.file(entry)
    if file is not None:
        data, model = file
        return pictures.serialise(pictures.develop(data, suffix, model=model), suffix, data)
    return pictures.serialise(source.array(entry) if suffix == NPY else source.image_or_array(entry), suffix)


def _note(entry: Entry, lost: tuple[str, ...], *, quiet: bool) -> None:
    if lost and not quiet:
        say(f"calotype: note: {printable(entry.name)}: {', '.join(lost)}")


def _target(folder: Path, name: str, suffix: str) -> Path:
    """Where an image goes: under the folder, even if links lie in it or stand in its place."""
    plain = Path(name)
    target = folder / plain.with_name(f"{plain.stem if pictures.holds_picture(plain) else plain.name}.{suffix}")
    if not Path(os.path.realpath(target)).is_relative_to(os.path.realpath(folder)):
        raise InputError(f"{target} lies outside {folder}, by way of a link")
    return target


def _write_all(source: Archive, entries: list[Entry], folder: Path, suffix: str, overwrite: bool, quiet: bool) -> None:
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: name a folder")
    written_bytes, failed = 0, 0
    claimed: dict[Path, str] = {}
    said = set[str]()
    for entry in watched(entries, len(entries), quiet=quiet):
        try:
            target = _target(folder, entry.name, suffix)
            if claimed.setdefault(target, entry.name) != entry.name:
                raise FileExistsError(f"{target} is the output of {claimed[target]} already: extract it with -o")
            size_bytes, lost = _write(source, entry, Job(None, target), suffix, overwrite=overwrite)
            written_bytes += size_bytes
            _note(entry, lost, quiet=quiet)
        except BrokenPipeError:  # noqa: PERF203
            raise
        except FAILURES as error:
            if str(error) not in said:  # a model that is missing is missing for all
                complain(entry.name, error)
            said.add(str(error))
            failed += 1
    if not quiet:
        rest = f"  {failed} failed" if failed else ""
        say(f"{shown(folder)}: {len(entries) - failed} images  {written_bytes:,} bytes{rest}")
    if failed:
        raise typer.Exit(1)

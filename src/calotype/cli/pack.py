"""`calotype pack`."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

import calotype
from calotype import arrays, bundle, datasets, library
from calotype.archive import Archive, ArchiveWriter
from calotype.bitsback.model import LatentBundle
from calotype.bundle import Bundle, ModelFile
from calotype.cli import files, options, pictures
from calotype.cli.console import complain, note_preview, printable, refuse_options, say, shown, watched
from calotype.cli.files import Job
from calotype.cli.train import train as train_model
from calotype.codec import DEFAULT_QUALITY, MAX_PIXELS, level_of
from calotype.errors import CalotypeError, FormatError, InputError, OptionError
from calotype.pixels import Samples, as_grey, from_image
from calotype.small import SmallModel, chunk_images, image_of, small_model
from calotype.sqlite import journal_of
from calotype.vessel import Item

SUFFIX = ".caloset"
Images = NDArray[np.uint8]


@dataclass(frozen=True)
class Part:
    """What goes into an archive next: a picture or a chunk.

    Attributes:
        label: What to call it in messages.
        images: How many it should hold.
        add: Adds it.
    """

    label: str
    images: int
    add: Callable[[], Item]


def pack(
    data: Annotated[
        str,
        typer.Argument(metavar="DATA", help=f"A folder of pictures; an .npy or IDX file; {', '.join(datasets.NAMES)}."),
    ],
    out: Annotated[Path, typer.Argument(metavar=f"OUT{SUFFIX}", help="The archive to write.")],
    lossless: options.Lossless = False,
    quality: options.Quality = None,
    model: options.ModelToEncode = None,
    embed_model: Annotated[
        bool, typer.Option("--embed-model", help="Put the model in, for machines that do not have it.")
    ] = False,
    train: Annotated[
        bool, typer.Option("--train", help="Train a model on the folder's pictures first, and put it in.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="With --train: train so long; as `calotype train` if not given.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an archive that exists, and with --train its model.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Pack many images into one archive.

    Pictures are packed as `encode` encodes them; images of the size that a model of small images codes, many to a row.
    Of a data set by name, the test images are packed. What is said to be stored stays stored, even if the command is
    killed; with --overwrite the old archive stays until the new one is whole. With --train the model also
    stays beside the archive, and the same command goes on with a training that was interrupted.
    """
    if out.suffix != SUFFIX:
        raise OptionError(f"{out}: the name of an archive ends in {SUFFIX}")
    if lossless and quality is not None:
        raise OptionError("--lossless and --quality exclude each other")
    if minutes is not None and not train:
        raise OptionError("--minutes has no effect without --train: leave it out")
    source = _Source.of(data)
    if train:
        refuse_options("--train", {"lossless": lossless, "model": model})
        for target in (out, out.with_suffix(bundle.SUFFIX)):
            files.check_target(Job(None, target), overwrite=overwrite)
        model, embed_model = str(_trained(data, out, minutes, overwrite=overwrite)), True
    chosen = None if lossless and model is None else library.find_any(model or library.DEFAULT_MODEL)
    if chosen is not None and isinstance(chosen, LatentBundle) != lossless:
        how = "with loss: leave --lossless out" if lossless else "without loss: add --lossless"
        raise OptionError(f"model {chosen.name} codes {how}, or name another model")
    if embed_model and chosen is None:
        raise OptionError("--embed-model: no model is used; name one with --model")
    if chosen is not None and chosen.status == "preview" and not (embed_model or quiet):
        note_preview(chosen.name)
    limited = pictures.pixel_limit(MAX_PIXELS)
    with limited, _finally_at(out, overwrite=overwrite) as path, ArchiveWriter(path) as archive:
        if embed_model and chosen is not None:
            archive.add_model(chosen)
        if chosen is None or isinstance(chosen, Bundle):
            pages = model is not None or lossless
            parts = _pictures(archive, source, chosen, quality, pages=pages, quiet=quiet)
        else:
            level = level_of(DEFAULT_QUALITY if quality is None else quality)
            parts = _chunks(archive, source, small_model(chosen), level)
        stored, failed = _run(list(parts), quiet=quiet)
    if not quiet and stored:
        rest = f"  {failed} failed" if failed else ""
        say(f"{shown(out)}: {stored} images  {out.stat().st_size:,} bytes{rest}")
    if failed:
        raise typer.Exit(1)


def _trained(data: str, out: Path, minutes: float | None, *, overwrite: bool) -> Path:
    """A model trained on a folder's pictures, written beside the archive that is to be."""
    if not Path(data).is_dir():
        raise OptionError(f"--train learns from a folder of pictures, which {data} is not")
    model = out.with_suffix(bundle.SUFFIX)
    train_model([Path(data)], model, minutes=minutes, overwrite=overwrite)
    return model


@contextmanager
def _finally_at(out: Path, *, overwrite: bool) -> Generator[Path]:
    """Where to write an archive: at its place, or beside one that it replaces once it is done, if it holds an image."""
    if not os.path.lexists(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield out
        finally:
            _drop_if_empty(out)
        return
    files.check_target(Job(None, out), overwrite=overwrite)
    out = out.resolve()
    if out.is_dir():
        raise InputError(f"{out} is a folder: name a file to write")
    _settle(out)
    fresh = out.with_name(f".{out.name}-{secrets.token_hex(8)}.unfinished")
    try:
        yield fresh
        _drop_if_empty(fresh)
        if fresh.exists():
            _settle(out)
            fresh.replace(out)
    finally:
        fresh.unlink(missing_ok=True)
        journal_of(fresh).unlink(missing_ok=True)


def _drop_if_empty(path: Path) -> None:
    if not path.exists():
        return
    with Archive(path) as made:
        empty = not len(made)
    if empty:
        path.unlink()


def _settle(out: Path) -> None:
    """See to it that no journal lies beside an archive, for it would be applied to the next one of that name.

    To open an archive is to recover it, and that removes the journal.
    """
    journal = journal_of(out)
    if not os.path.lexists(journal):
        return
    with suppress(CalotypeError):
        Archive(out).close()
        if journal.is_file() and not journal.stat().st_size:
            journal.unlink()
    if os.path.lexists(journal):
        raise InputError(f"{journal}: the journal of an archive that cannot be recovered is left: delete or move it")


@dataclass(frozen=True)
class _Source:
    """Images to pack: pictures of a folder by name, or an array of unnamed ones (n, h, w, c)."""

    files: dict[str, Path]
    images: Images

    @classmethod
    def of(cls, data: str) -> _Source:
        path = Path(data)
        if data in datasets.NAMES:
            return cls({}, datasets.load_test(data).images)
        none = np.empty((0, 1, 1, 1), np.uint8)
        if path.is_dir():
            found = files.wanted_under(path, pictures.holds_picture)
            named = {p.relative_to(path).as_posix(): p for p in found}
            if not named:
                raise InputError(f"{data}: no pictures in this folder")
            return cls(named, none)
        if path.is_file():
            if not arrays.is_array(path):
                raise InputError(f"{data}: neither a folder nor an .npy or IDX file; `calotype encode` takes pictures")
            return cls({}, arrays.read(path))
        raise InputError(f"{data}: no such folder, file or data set")

    def __len__(self) -> int:
        return len(self.files) or len(self.images)


def _pictures(
    archive: ArchiveWriter, source: _Source, model: ModelFile | None, quality: float | None, *, pages: bool, quiet: bool
) -> Iterator[Part]:
    """Each image as a `.calo` file; without a model, a lossless one. TIFFs are their `pages`, if they may be."""

    def add(name: str, image: Image.Image | Samples) -> Item:
        data = calotype.encode(image, quality=quality, lossless=model is None, model=model)
        return archive.add_picture(name, data)

    def add_file(name: str, path: Path) -> Item:
        with path.open("rb") as stream:
            image, cut = pictures.read_for(stream, model, pages=pages)
        if cut and not quiet:
            say(f"calotype: note: {printable(name)}: {pictures.CUT_NOTE}")
        return add(name, image)

    for name, path in source.files.items():
        yield Part(name, 1, partial(add_file, name, path))
    for number in range(len(source.images)):
        yield Part(f"{number:06d}", 1, partial(add, f"{number:06d}", np.asarray(source.images[number])))


def _chunks(archive: ArchiveWriter, source: _Source, model: SmallModel, level: int) -> Iterator[Part]:
    """Small images, many to a row."""

    def add_files(files: list[tuple[str, Path]]) -> Item:
        read: dict[str, Images] = {}
        for name, path in files:
            try:
                read[name] = _samples(path, image_of(model))
            except (InputError, OSError) as error:  # noqa: PERF203
                complain(name, error)
        if not read:
            raise InputError("none of these pictures can be packed")
        return archive.add_images(model, np.stack(list(read.values())), list(read), level)

    def add(start: int, stop: int) -> Item:
        return archive.add_images(model, np.asarray(source.images[start:stop]), (), level)

    files, size = list(source.files.items()), chunk_images(model)
    for start in range(0, len(source), size):
        stop = min(start + size, len(source))
        adding = partial(add_files, files[start:stop]) if files else partial(add, start, stop)
        yield Part(f"images {start}-{stop - 1}", stop - start, adding)


def _samples(path: Path, form: tuple[int, int, int]) -> Images:
    """The samples (h, w, c) of a small picture."""
    with path.open("rb") as stream:
        image, cut = pictures.read(stream)
    picture = from_image(image, strip=True)
    if form[2] == 1:
        picture = as_grey(picture)
    found = f"{picture.samples.shape} {picture.samples.dtype}{' and alpha' * (picture.alpha is not None)}"
    if cut or found != f"{form} uint8":
        raise InputError(f"{found}{' cut from more bits' * cut}; the model codes {form} uint8")
    return picture.samples.astype(np.uint8)


def _run(parts: list[Part], *, quiet: bool) -> tuple[int, int]:
    """Add every part, say what is stored as soon as it is, and what is not; how many images were and were not."""
    failed = stored = 0
    for part in watched(parts, len(parts), quiet=quiet):
        try:
            item = part.add()
        except (InputError, FormatError, OSError) as error:
            complain(part.label, error)
            failed += part.images
            continue
        stored, failed = stored + item.images, failed + part.images - item.images
        if not quiet and not sys.stderr.isatty():
            say(f"{part.label} stored  {item.data_bytes:,} bytes")
    return stored, failed

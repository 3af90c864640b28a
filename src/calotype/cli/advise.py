"""`calotype advise`."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from calotype.cli import files, pictures
from calotype.cli.console import print_table, shown, watched
from calotype.codec import DEFAULT_QUALITY
from calotype.errors import InputError

if TYPE_CHECKING:
    from calotype.bench.advice import Advice, Row

SAMPLE = 12
_COLUMNS = ("bpp", "bytes a picture", "against photo", "pictures")
_VERDICTS = {
    "yes": "A model of your own should pay",
    "no": "A model of your own would not pay by its bytes",
    "perhaps": "A model of your own may pay",
}


def advise(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Pictures, searched to any depth.")],
    quality: Annotated[
        float, typer.Option("-q", "--quality", min=0, max=100, help="Of the model `photo`, whose PSNR all must reach.")
    ] = DEFAULT_QUALITY,
    sample: Annotated[int, typer.Option(min=1, help="So many pictures are coded.")] = SAMPLE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what calotype would gain on a folder of pictures, and whether to train a model on them. Trains nothing.

    A sample is coded with the model `photo`, AVIF, JPEG XL (if its plugin is installed), WebP and JPEG at equal PSNR.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder")
    from calotype.bench import advice

    paths = files.wanted_under(folder, pictures.is_picture)
    if not paths:
        raise InputError(f"{folder}: no pictures in this folder")
    *_, result = watched(advice.advise(paths, quality, sample), min(sample, len(paths)) + 1)
    assert result is not None
    if as_json:
        typer.echo(json.dumps(asdict(result), indent=2))
    else:
        _print(folder, result)


def _print(folder: Path, found: Advice) -> None:
    coded = found.sampled - found.unread
    typer.echo(f"{shown(folder)}: {found.pictures:,} pictures, {found.file_bytes:,} bytes; {coded} were coded")
    if found.unread:
        typer.echo(f"{found.unread} of the sample are damaged or have 16 bits, and were left out")
    typer.echo("")
    print_table([*map(partial(_cells, found), found.rows)], [f"at {found.psnr_db:.1f} dB", *_COLUMNS])
    typer.echo("")
    if found.drawn:
        typer.echo(f"{found.drawn} of {coded} are so small or flat that `calotype encode` would keep them lossless.")
    for line in (_today(found), *_own(found)):
        typer.echo(line)


def _cells(found: Advice, row: Row) -> tuple[str, ...]:
    against = f"{100 * row.against_photo:+.0f}%" if row is not found.rows[0] else "-"
    return row.codec, f"{row.bpp:.3f}", f"{row.bpp * found.picture_pixels / 8:,.0f}", against, f"{row.pictures}"


def _today(found: Advice) -> str:
    """How photo, as it is, stands against the best of the others."""
    others = [row for row in found.rows[1:] if row.pictures == found.rows[0].pictures]
    if not others:
        return "None of the others reaches photo's PSNR on all of them."
    best = min(others, key=lambda row: row.against_photo)
    if best.against_photo < 0:
        return f"Today {best.codec} takes {-100 * best.against_photo:.0f}% fewer bytes than photo."
    return (
        f"Today photo takes {100 - 100 / (1 + best.against_photo):.0f}% fewer bytes than {best.codec}, the next best."
    )


def _own(found: Advice) -> tuple[str, str, str]:
    own = found.personal
    (least, most), (few, many) = own.gain, own.break_even_pictures
    return (
        f"{_VERDICTS[own.verdict]}: on other kinds of pictures one saved {100 * least:.0f} to {100 * most:.0f}% of",
        f"photo's bytes. It takes about {own.model_bytes / 1e6:.0f} MB itself, which {few:,} to {many:,} such pictures",
        f"save; here are {found.pictures:,}. Who has the model already need not count it.",
    )

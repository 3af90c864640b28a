"""What becomes of every file of a folder: `python tools/inputs.py FOLDER`.

Encodes each without loss and at the usual quality, decodes both, and compares them with what Pillow reads. Prints two
tables: by folder and format, how many are coded and how near; and of those refused, with which error. Fails if a file
is neither coded right nor refused.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

import calotype
from calotype.cli import pictures
from calotype.errors import InputError
from calotype.pixels import EXACT_DB, from_image, to_array

LEAST_DB = 27.0
"""A picture farther than this from its original, at the usual quality, is not the same picture."""


@dataclass(frozen=True)
class Fate:
    """What became of a file.

    Attributes:
        path: The file, in its folder.
        kind: Pillow's name of its format, or the suffix of what it does not know.
        refused: The error; empty if the file was coded.
        is_cut: Whether Pillow had cut its samples to 8 bits.
        psnr_db: At the usual quality; EXACT_DB if nothing was lost.
        wrong: What is not as it should be; empty if all is.
    """

    path: Path
    kind: str
    refused: str = ""
    is_cut: bool = False
    psnr_db: float = EXACT_DB
    wrong: str = ""


def fates(root: Path) -> Iterator[Fate]:
    """What becomes of each file under a folder."""
    for path in sorted(root.rglob("*")):
        if path.is_file():
            yield fate(root, path)


def fate(root: Path, path: Path) -> Fate:
    """Code one file both ways."""
    name, kind = path.relative_to(root), path.suffix.lower() or "none"
    try:
        with path.open("rb") as stream:
            image, is_cut = pictures.read(stream)
            kind = image.format or kind
            wanted = to_array(from_image(image))
            exact = calotype.decode_array(calotype.encode(image, lossless=True))
            usual = calotype.decode_array(calotype.encode(image))
    except InputError as error:
        return Fate(name, kind, refused=str(error))
    except Exception as error:  # to be told with its name, beside the others
        return Fate(name, kind, wrong=f"{type(error).__name__}: {error}")
    if not same_as_pillow(image, exact) or wanted.shape != usual.shape:
        return Fate(name, kind, wrong="another picture comes back")
    reached_db = psnr_db(wanted, usual)
    return Fate(name, kind, "", is_cut, reached_db, "" if reached_db >= LEAST_DB else f"only {reached_db:.1f} dB")


def same_as_pillow(image: Image.Image, exact: np.ndarray) -> bool:
    """Whether what was decoded shows what Pillow shows: in RGBA, or in 16 bits of grey."""
    if image.mode.startswith("I"):
        return np.array_equal(image, exact if exact.ndim == 2 else exact[..., 0])
    return Image.fromarray(exact).convert("RGBA").tobytes() == image.convert("RGBA").tobytes()


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """PSNR, EXACT_DB for equals."""
    error = np.mean(np.square(np.subtract(a, b, dtype=np.float64)))
    return float(10 * np.log10(np.iinfo(a.dtype).max ** 2 / error)) if error else EXACT_DB


def coded_table(found: list[Fate]) -> list[str]:
    """A row for each folder and format."""
    groups = defaultdict[tuple[str, str], list[Fate]](list)
    for one in found:
        groups[one.path.parent.as_posix(), one.kind].append(one)
    rows = ["| folder | format | files | coded | of these without loss | lowest PSNR of the others | refused |"]
    rows.append("|---|---|---|---|---|---|---|")
    for (folder, kind), members in sorted(groups.items()):
        coded = [one for one in members if not (one.refused or one.wrong)]
        lossy = [one.psnr_db for one in coded if one.psnr_db < EXACT_DB]
        refused = sum(bool(one.refused) for one in members)
        lowest = f"{min(lossy):.1f} dB" if lossy else ""
        rows.append(
            f"| {folder} | {kind} | {len(members)} | {len(coded)} | {len(coded) - len(lossy)} | {lowest} | {refused} |"
        )
    return rows


def refused_table(found: list[Fate]) -> list[str]:
    """A row for each error, numbers in it aside."""
    groups = defaultdict[str, list[Fate]](list)
    for one in found:
        if one.refused:
            groups[re.sub(r"\d+", "N", one.refused)].append(one)
    rows = ["| files | error | such as |", "|---|---|---|"]
    for error, members in sorted(groups.items(), key=lambda group: -len(group[1])):
        rows.append(f"| {len(members)} | {error} | {members[0].path.name} |")
    return rows


def main() -> None:
    """Read the command line, code everything, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    found = list(fates(parser.parse_args().folder))
    coded = [one for one in found if not (one.refused or one.wrong)]
    print(*coded_table(found), "", *refused_table(found), "", sep="\n")
    print(f"{len(found)} files, {len(coded)} coded, {sum(one.is_cut for one in coded)} of them cut to 8 bits by Pillow")
    if wrong := [f"{one.path}: {one.wrong}" for one in found if one.wrong]:
        sys.exit("inputs.py: " + "\n".join(wrong))


if __name__ == "__main__":
    main()

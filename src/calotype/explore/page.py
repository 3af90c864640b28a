"""The page on a model of small images: sections of pictures and tables, in one file that needs no network."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from calotype.bench.plots import rendered
from calotype.bundle import ModelFile
from calotype.whole import write_whole

PAGE = "index.html"
FACTS = ("parameters", "minutes", "epochs_trained", "steps_trained", "validation_loss", "validation_bpd")


@dataclass(frozen=True)
class Picture:
    """A picture of a page.

    Attributes:
        name: Of its file, without a suffix.
        caption: What it shows.
        png: The file.
        is_plot: Whether it is drawn on white, rather than made of images.
    """

    name: str
    caption: str
    png: bytes
    is_plot: bool

    @classmethod
    def of_plot(cls, name: str, caption: str, figure: Figure) -> Picture:
        """A plot."""
        return cls(name, caption, rendered(figure, "png"), is_plot=True)

    @classmethod
    def of_images(cls, name: str, caption: str, sheet: NDArray[np.uint8]) -> Picture:
        """A sheet of images (h, w, 3)."""
        file = BytesIO()
        Image.fromarray(sheet).save(file, "PNG", optimize=True)
        return cls(name, caption, file.getvalue(), is_plot=False)


@dataclass(frozen=True)
class Section:
    """A part of a page: what it is about, pictures, and a table of words and numbers."""

    title: str
    text: str
    pictures: tuple[Picture, ...] = ()
    heads: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


def html(file: ModelFile, data: str, sections: Sequence[Section], left_out: Sequence[str]) -> str:
    """The page on a model and a data set; `left_out` says what it has nothing on, and why."""
    facts = {
        "model": f"{file.name} {file.version}",
        "id": file.id.hex(),
        "kind": file.kind,
        "bytes": f"{file.size_bytes:,}",
        **{key: str(file.card[key]) for key in FACTS if key in file.card},
    }
    loader = ChoiceLoader([PackageLoader("calotype.explore"), PackageLoader("calotype.bench")])
    page = Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True)
    return page.get_template("explore.html.j2").render(
        title=f"{file.name} on {data}", facts=facts, sections=sections, left_out=left_out, uri=_uri
    )


def _uri(picture: Picture) -> str:
    return f"data:image/png;base64,{b64encode(picture.png).decode()}"


def write(out: Path, page: str, sections: Sequence[Section]) -> None:
    """`index.html`, and each picture as a PNG file of its own."""
    out.mkdir(parents=True, exist_ok=True)
    for section in sections:
        for picture in section.pictures:
            write_whole(out / f"{picture.name}.png", picture.png)
    write_whole(out / PAGE, page.encode())

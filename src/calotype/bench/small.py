"""A benchmark of many small images: models against general codecs, by real bytes for all images of a test set.

General codecs code each image as a file of its own, and all images as one mosaic, which saves them the overhead of
files. Compressors without loss get the pixels of all images as one block. Models code chunks of images, without
anything that belongs to a single one. PSNR is pooled: from the squared error over all pixels of all images.
"""

from __future__ import annotations

import bz2
import csv
import lzma
import math
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from io import StringIO
from itertools import groupby, pairwise
from pathlib import Path

import numpy as np
from PIL import Image

from calotype.bench import codecs, metrics, small_plot
from calotype.bench.codecs import Codec
from calotype.bench.plots import rendered
from calotype.bitsback import chunk
from calotype.bitsback.model import Model as BitsBackModel
from calotype.markdown import table
from calotype.small import SmallModel
from calotype.textbook.chunk import pack_images, unpack_images
from calotype.textbook.model import Images
from calotype.textbook.model import Model as TextbookModel
from calotype.textbook.sample import mosaic_of
from calotype.whole import write_whole

PLOT = "small.svg"
CHUNK = 1000
LEVELS = (32, 64, 96, 112, 128, 144, 160, 176, 208, 224)
SINGLE_IMAGES = 300
"""So many images are coded as files of their own; their mean stands for all."""
LOSSY = (
    replace(codecs.JPEG_OPTIMISED, qualities=(3, 5, 10, 15, 20, 30, 45, 60)),
    replace(codecs.JPEG_2000, qualities=(0, 4, 8, 12, 18, 28, 38, 48)),
    replace(codecs.WEBP, qualities=(0, 0.2, 0.5, 1, 6, 12, 25, 40)),
    replace(codecs.AVIF_PSNR, qualities=(0, 2, 3, 4, 6, 8, 12, 15)),
    replace(codecs.JPEG_XL, qualities=(5, 15, 18, 19, 23, 27, 31, 35)),
)
"""At the low qualities where models of small images end, not at those of photographs."""
LOSSLESS = (codecs.PNG, codecs.WEBP_LOSSLESS)
EQUAL_DB = (20.0, 22.5, 25.0)
WIDEST_GAP_DB = 3.0
"""No number is interpolated between rows that lie further apart."""


def _huffman(data: bytes) -> bytes:
    coder = zlib.compressobj(level=9, strategy=zlib.Z_HUFFMAN_ONLY)
    return coder.compress(data) + coder.flush()


BLOCK: dict[str, Callable[[bytes], bytes]] = {
    "Huffman": _huffman,
    "deflate": lambda data: zlib.compress(data, 9),
    "bz2": lambda data: bz2.compress(data, 9),
    "xz": lambda data: lzma.compress(data, preset=9 | lzma.PRESET_EXTREME),
}


@dataclass(frozen=True)
class Row:
    """One codec at one setting on a set of images.

    Attributes:
        codec: What the table calls it.
        setting: Level or quality; empty if there is one only.
        images: How many images were coded.
        image_bytes: Mean bytes of an image.
        bpd: Bits per dimension: per sample.
        psnr_db: Over all pixels of all images; None without loss.
        ssim: Mean over the images; None without loss or for images smaller than its window.
        model_bytes: Size of the model file.
        image_bytes_with_model: Mean bytes of an image if the model is counted, too.
    """

    codec: str
    setting: str
    images: int
    image_bytes: float
    bpd: float
    psnr_db: float | None
    ssim: float | None
    model_bytes: int
    image_bytes_with_model: float


def row(name: str, setting: str, images: Images, size_bytes: int, back: Images, model_bytes: int = 0) -> Row:
    """What `images` (n, h, w, c) cost and lost when `size_bytes` bytes gave `back`."""
    count, samples = len(images), images[0].size
    mse = float(np.mean(np.square(back.astype(np.float32) - images), dtype=np.float64))
    whole = min(images.shape[1:3]) >= metrics.WINDOW_PX
    ssim = metrics.ssim_of_images(images, back) if whole and mse else None
    return Row(
        codec=name,
        setting=setting,
        images=count,
        image_bytes=size_bytes / count,
        bpd=8 * size_bytes / (count * samples),
        psnr_db=10 * math.log10(255**2 / mse) if mse else None,
        ssim=ssim,
        model_bytes=model_bytes,
        image_bytes_with_model=(size_bytes + model_bytes) / count,
    )


def _chunks(images: Images) -> list[Images]:
    return [images[start : start + CHUNK] for start in range(0, len(images), CHUNK)]


def model_rows(model: TextbookModel, images: Images, levels: Sequence[int] = LEVELS) -> Iterator[Row]:
    """A model with fixed latents, at some levels."""
    bundle, parts = model.bundle, _chunks(images)
    for level in levels:
        packed = [pack_images(model, part, level) for part in parts]
        back = np.concatenate([unpack_images(model, c, len(p)) for c, p in zip(packed, parts, strict=True)])
        size_bytes = sum(map(len, packed))
        yield row(bundle.name, f"level {level}", images, size_bytes, back, bundle.path.stat().st_size)


def bits_back_row(model: BitsBackModel, images: Images) -> Row:
    """A model that codes without loss."""
    bundle, parts = model.bundle, _chunks(images)
    packed = [chunk.encode(model, part) for part in parts]
    back = np.concatenate([chunk.decode(model, c, len(p)) for c, p in zip(packed, parts, strict=True)])
    return row(bundle.name, "", images, sum(map(len, packed)), back, bundle.path.stat().st_size)


def _picture(image: Images) -> Image.Image:
    return Image.fromarray(image[:, :, 0] if image.shape[2] == 1 else image)


def _array(image: Image.Image, channels: int) -> Images:
    array = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    return array.reshape(*array.shape[:2], channels)


def images_of(mosaic: Images, like: Images) -> Images:
    """The images that `mosaic_of` put together."""
    count, height, width, channels = like.shape
    rows, columns = mosaic.shape[0] // height, mosaic.shape[1] // width
    sheet = mosaic.reshape(rows, height, columns, width, channels).swapaxes(1, 2)
    return sheet.reshape(-1, height, width, channels)[:count]


def mosaic_row(codec: Codec, quality: float, images: Images) -> Row:
    """A general codec on the mosaic."""
    mosaic = mosaic_of(images)
    data = codec.encode(_picture(mosaic), quality)
    back = images_of(_array(codec.decode(data), images.shape[3]), images)
    return row(f"{codec.name}, mosaic", _setting(codec, quality), images, len(data), back)


def single_row(codec: Codec, quality: float, images: Images) -> Row:
    """A general codec on files of one image each."""
    chosen = images[:SINGLE_IMAGES]
    files = [codec.encode(_picture(image), quality) for image in chosen]
    back = np.stack([_array(codec.decode(data), images.shape[3]) for data in files])
    return row(f"{codec.name}, files", _setting(codec, quality), chosen, sum(map(len, files)), back)


def _setting(codec: Codec, quality: float) -> str:
    return "" if codec.lossless else f"quality {quality:g}"


def jobs(images: Images, models: Sequence[SmallModel]) -> list[Callable[[], list[Row]]]:
    """All measurements, to be made one after the other."""

    def measured(model: SmallModel) -> Callable[[], list[Row]]:
        if isinstance(model, BitsBackModel):
            return lambda: [bits_back_row(model, images)]
        return lambda: list(model_rows(model, images))

    def coded(measure: Callable[[Codec, float, Images], Row], codec: Codec) -> Callable[[], list[Row]]:
        return lambda: [measure(codec, quality, images) for quality in codec.qualities]

    def packed(name: str) -> Callable[[], list[Row]]:
        return lambda: [row(f"{name}, one block", "", images, len(BLOCK[name](images.tobytes())), images)]

    general = [coded(measure, codec) for codec in (*LOSSY, *LOSSLESS) for measure in (mosaic_row, single_row)]
    return [*map(measured, models), *general, *map(packed, BLOCK)]


def bytes_at(rows: Sequence[Row], psnr_db: float) -> float | None:
    """Bytes of an image at a PSNR, interpolated in their logarithm; None beyond the rows and in their wide gaps."""
    points = sorted((r.psnr_db, math.log(r.image_bytes)) for r in rows if r.psnr_db is not None)
    for (low_db, low), (high_db, high) in pairwise(points):
        if low_db <= psnr_db <= high_db and high_db - low_db <= WIDEST_GAP_DB:
            return math.exp(float(np.interp(psnr_db, (low_db, high_db), (low, high))))
    return None


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def curves(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each codec."""
    return {codec: list(group) for codec, group in groupby(rows, lambda r: r.codec)}


def page(rows: Sequence[Row], name: str, command: str, machine: dict[str, str]) -> str:
    """The page of Markdown: bytes at equal PSNR, then all rows."""
    head = ("codec", "images", "setting", "bytes", "with model", "bits/dim", "PSNR dB", "SSIM", "model bytes")
    equal = [
        (codec, *(_number(bytes_at(group, db), 1) for db in EQUAL_DB))
        for codec, group in curves(rows).items()
        if group[0].psnr_db is not None
    ]
    every = [
        (
            r.codec, f"{r.images}", r.setting, _number(r.image_bytes, 2), _number(r.image_bytes_with_model, 2),
            _number(r.bpd, 3), _number(r.psnr_db, 2), _number(r.ssim, 4), f"{r.model_bytes or '-'}",
        )
        for r in rows
    ]  # fmt: skip
    note = (
        f"Bytes are means over the images. Files of one image each are made of the first {SINGLE_IMAGES} images, all "
        f"else of the whole test set; models code chunks of {CHUNK}. PSNR is pooled over all pixels; without one: no "
        f"loss. At equal PSNR bytes are interpolated, but not between rows over {WIDEST_GAP_DB:g} dB apart. In the "
        "second column of bytes the model file is counted, too."
    )
    parts = [
        f"# Small images: {name}",
        f"```sh\n{command}\n```",
        note,
        "; ".join(f"{fact}: {value}" for fact, value in machine.items()) + ".",
        f"![Bytes and PSNR]({PLOT})",
        "## Bytes of an image at equal PSNR",
        table(("codec", *(f"{db:g} dB" for db in EQUAL_DB)), equal, words=1),
        "## All rows",
        table(head, every, words=1),
    ]
    return "\n\n".join(parts) + "\n"


def to_csv(rows: Sequence[Row]) -> str:
    """The rows as a table."""
    file = StringIO()
    writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(r) for r in rows)
    return file.getvalue()


def write(rows: Sequence[Row], name: str, command: str, machine: dict[str, str], out: Path) -> None:
    """`small.md`, `small.csv`, and the plot, `small.svg`."""
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "small.csv", to_csv(rows).encode())
    write_whole(out / PLOT, rendered(small_plot.draw(curves(rows)), "svg"))
    write_whole(out / "small.md", page(rows, name, command, machine).encode())

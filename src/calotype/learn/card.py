"""The card that lies beside a bundle: what the model is, how it was made, how good it is, and where it fails."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from calotype.bundle import Bundle
from calotype.codec import DEFAULT_EFFORT
from calotype.container import unpack
from calotype.decoder import develop
from calotype.encoder import PictureCoder
from calotype.learn.config import VISUAL
from calotype.markdown import table
from calotype.pixels import Picture, Samples
from calotype.runtime import Runtime
from calotype.whole import write_whole

WORST_LEVEL = 96
WORST_PX = 128
WORST_COUNT = 6


def _blocks_mse(a: Samples, b: Samples) -> NDArray[np.float64]:
    """Mean squared error of each whole block of 128x128."""
    error = np.square(a.astype(np.float64) - b).mean(2)
    rows, columns = (side // WORST_PX for side in error.shape)
    blocks = error[: rows * WORST_PX, : columns * WORST_PX].reshape(rows, WORST_PX, columns, WORST_PX)
    return blocks.mean((1, 3))


def _as_seen(samples: Samples) -> Image.Image:
    """Samples (h, w, c) as an eye can see them: in 8 bits, of several bands the first, or the first three."""
    shown = samples[:, :, :3] if samples.shape[2] >= 3 else samples[:, :, 0]
    return Image.fromarray(shown if shown.dtype == np.uint8 else (shown >> 8).astype(np.uint8))


def worst_crops(runtime: Runtime, pictures: Sequence[Picture]) -> Image.Image:
    """The crops that the model restores worst, one a picture at most: originals above, what came back below."""
    found: list[tuple[float, Image.Image, Image.Image]] = []
    for picture in pictures:
        if min(picture.samples.shape[:2]) < WORST_PX:
            continue
        coder = PictureCoder.of(picture, runtime, DEFAULT_EFFORT)
        decoded = develop(unpack(coder.at_level(WORST_LEVEL)), runtime).samples
        mse = _blocks_mse(picture.samples, decoded)
        row, column = np.unravel_index(mse.argmax(), mse.shape)
        box = tuple(slice(WORST_PX * int(k), WORST_PX * (int(k) + 1)) for k in (row, column))
        found.append((mse.max(), _as_seen(picture.samples[box]), _as_seen(decoded[box])))
    found = sorted(found, key=lambda item: -item[0])[:WORST_COUNT]
    sheet = Image.new("RGB", (WORST_PX * max(1, len(found)), 2 * WORST_PX))
    for i, (_, before, after) in enumerate(found):
        sheet.paste(before, (i * WORST_PX, 0))
        sheet.paste(after, (i * WORST_PX, WORST_PX))
    return sheet


def facts(values: dict[str, Any]) -> str:
    """A table of names and values."""
    return table(("", ""), [(f"`{key}`", value) for key, value in values.items()])


def bullets(lines: Sequence[str]) -> str:
    """A list in Markdown."""
    return "\n".join(f"- {line}" for line in lines) or "Not stated."


def curve_table(points: Sequence[dict[str, float]]) -> str:
    """Rate and distortion by level."""
    rows = [(p["level"], f"{p['bpp']:.3f}", f"{p['psnr_db']:.2f}") for p in points]
    return table(("level", "bpp", "PSNR dB"), rows)


def _visual(head: dict[str, Any]) -> list[str]:
    """The sections of a visual head."""
    made = {key: value for key, value in head.items() if key not in ("recipe", "curve")}
    return [
        f"## The head `{VISUAL}`",
        "Another analysis and synthesis over the same prior, trained from those above for how pictures look: a mixture "
        "of the squared error, MS-SSIM and SSIMULACRA2. At equal levels its files are smaller and their PSNR is lower.",
        facts({**made, **head["recipe"]}),
        curve_table(head["curve"]),
    ]


def text(bundle: Bundle, worst: str) -> str:
    """The card as Markdown; `worst` is the file name of the picture of worst crops.

    Besides what the export adds, it shows the config's `description`, `licence`, `data` (of name and licence each),
    `runs` (what went before this one: rows of one table), `schedule` and `weak_spots`.
    """
    card = bundle.manifest.card
    made = {key: card[key] for key in ("steps_trained", "schedule", "hours", "hardware") if key in card}
    licence = card.get("licence", "not stated")
    about = {"status": bundle.status, "id": bundle.id.hex(), "bytes": bundle.size_bytes, "licence": licence}
    runs: list[dict[str, Any]] = card.get("runs", [])
    before = [table(list(runs[0]), [list(run.values()) for run in runs])] if runs else []
    parts = [
        f"# {bundle.name} {bundle.version}",
        *([card["description"]] if "description" in card else []),
        facts(about),
        "## Data",
        bullets([f"{d['name']} ({d['licence']})" for d in card.get("data", [])]),
        "## Recipe",
        *(["Earlier runs, each from the weights of the one before:", *before, "The last one:"] if runs else []),
        facts({**made, **card["recipe"]}),
        "## Architecture",
        facts(card["architecture"]),
        "## Rate and distortion",
        "Real files of pictures that were not trained on, means.",
        curve_table(card["curve"]),
        *(_visual(card[VISUAL]) if VISUAL in card else []),
        "## Weak spots",
        *([bullets(card["weak_spots"])] if "weak_spots" in card else []),
        f"The crops of those pictures with the largest error at level {WORST_LEVEL}; originals above, restored below:",
        f"![worst crops]({worst})",
    ]
    return "\n\n".join(parts) + "\n"


def write(bundle: Bundle, runtime: Runtime, pictures: Sequence[Picture]) -> Path:
    """Write the card NAME.md, and its picture NAME-worst.png, beside a bundle; returns the card's path."""
    picture = bundle.path.with_name(f"{bundle.path.stem}-worst.png")
    sheet = io.BytesIO()
    worst_crops(runtime, pictures).save(sheet, "PNG")
    write_whole(picture, sheet.getvalue())
    path = bundle.path.with_suffix(".md")
    write_whole(path, text(bundle, picture.name).encode())
    return path

"""One picture that shows crops of several codecs side by side, at equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

CROP_PX, ZOOM, MARGIN_PX, FONT_PX = 160, 2, 12, 18
LINE_PX = FONT_PX + 5
CELL_PX = CROP_PX * ZOOM
LABEL_PX = 2 * LINE_PX + 4


@dataclass(frozen=True)
class Cell:
    """One decoded picture under its two lines of label."""

    image: Image.Image
    title: str
    detail: str


def side_by_side(rows: Sequence[tuple[tuple[int, int], Sequence[Cell]]], footer: str) -> Image.Image:
    """A sheet with one row for each ((left, top) of the crop, cells); crops are enlarged without smoothing."""
    columns = max(len(cells) for _, cells in rows)
    width = MARGIN_PX + columns * (CELL_PX + MARGIN_PX)
    row_px = LABEL_PX + CELL_PX + MARGIN_PX
    sheet = Image.new("RGB", (width, MARGIN_PX + len(rows) * row_px + LINE_PX + MARGIN_PX), "white")
    for i, (corner, cells) in enumerate(rows):
        for j, cell in enumerate(cells):
            _draw(sheet, MARGIN_PX + j * (CELL_PX + MARGIN_PX), MARGIN_PX + i * row_px, corner, cell)
    _text(sheet, MARGIN_PX, sheet.height - MARGIN_PX - LINE_PX, footer, "dimgray")
    return sheet


def _draw(sheet: Image.Image, x: int, y: int, corner: tuple[int, int], cell: Cell) -> None:
    left, top = corner
    crop = cell.image.crop((left, top, left + CROP_PX, top + CROP_PX))
    _text(sheet, x, y, cell.title, "black")
    _text(sheet, x, y + LINE_PX, cell.detail, "dimgray")
    sheet.paste(crop.resize((CELL_PX, CELL_PX), Image.Resampling.NEAREST), (x, y + LABEL_PX))


def _text(sheet: Image.Image, x: int, y: int, text: str, fill: str) -> None:
    ImageDraw.Draw(sheet).text((x, y), text, fill=fill, font=ImageFont.load_default(FONT_PX))

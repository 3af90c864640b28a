"""What one sees of a run: a log, TensorBoard, validation, the time that is left."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from calotype.learn.model import Codec
from calotype.learn.train import Row
from calotype.tiling import padded

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

LOG = "log.jsonl"
VALIDATION_LEVELS = (32, 96, 160, 224)
VALIDATION_PX = 512


@dataclass(frozen=True)
class Point:
    """Estimated rate and distortion at a level: means over pictures."""

    level: int
    bpp: float
    psnr_db: float


def middle(picture: Tensor, height: int, width: int) -> Tensor:
    """The middle of a picture (h, w, c), of at most this size."""
    top, left = (max(0, side - wanted) // 2 for side, wanted in zip(picture.shape, (height, width), strict=False))
    return picture[top : top + height, left : left + width]


def judged(pictures: Sequence[Tensor], size_px: int = VALIDATION_PX) -> list[Tensor]:
    """The middle of each picture (h, w, c), sides multiples of 64 up to `size_px`; shorter ones are as they are."""
    sides = ((max(64, min(side // 64 * 64, size_px)) for side in picture.shape[:2]) for picture in pictures)
    return [middle(picture, *size) for picture, size in zip(pictures, sides, strict=True)]


def as_unit(pictures: Sequence[Tensor], size_px: int = VALIDATION_PX, peak: int = 255) -> list[Tensor]:
    """What is `judged` of each picture as x (1, c, h', w') in [-0.5, 0.5]."""
    return [p.permute(2, 0, 1)[None].float() / peak - 0.5 for p in judged(pictures, size_px)]


@torch.no_grad()
def curve(
    codec: Codec, pictures: Sequence[Tensor], levels: Sequence[int] = VALIDATION_LEVELS
) -> tuple[list[Point], Tensor]:
    """The codec on pictures x (1, c, h, w): rate and distortion by estimated bits, and the last picture restored.

    Sides that are no multiples of 64 are padded, as an encoder pads them.
    """
    codec.eval()
    points: list[Point] = []
    x_hat = torch.empty(0)
    for level in levels:
        figures: list[tuple[float, float]] = []
        for x in pictures:
            height, width = x.shape[2:]
            whole = F.pad(x, (0, padded(width) - width, 0, padded(height) - height), mode="replicate")
            at, size_px = (torch.tensor([v], device=x.device) for v in (level, (height, width)))
            coded = codec(whole, at, size_px)
            x_hat = coded.x_hat[:, :, :height, :width]
            bpp = float(coded.y_bits + coded.z_bits) / (height * width)
            mse = float((x_hat.clamp(-0.5, 0.5) - x).square().mean())
            figures.append((bpp, -10 * math.log10(max(mse, 1e-10))))
        bpps, psnrs = zip(*figures, strict=True)
        points.append(Point(level, sum(bpps) / len(bpps), sum(psnrs) / len(psnrs)))
    return points, x_hat


class Log:
    """Writes `log.jsonl`, and TensorBoard's files, into the folder of a run."""

    def __init__(self, folder: Path) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._file = (folder / LOG).open("a", buffering=1)
        self._board: SummaryWriter = SummaryWriter(str(folder / "tensorboard"))
        self._since = time.monotonic()

    def row(self, row: Row) -> None:
        """Means since the last row, and the seconds since then."""
        now = time.monotonic()
        values = asdict(row) | {"seconds": now - self._since}
        self._since = now
        self._file.write(json.dumps({k: round(v, 7) for k, v in values.items()}) + "\n")
        for name in ("loss", "bpp", "mse", "seconds"):
            self._board.add_scalar(name, values[name], row.step)

    def validation(self, step: int, points: Sequence[Point], x_hat: Tensor) -> None:
        """A curve, and a restored picture (1, c, h, w) in [-0.5, 0.5], of which three channels are shown, or one."""
        self._file.write(json.dumps({"step": step, "validation": [asdict(p) for p in points]}) + "\n")
        for p in points:
            self._board.add_scalar(f"bpp/{p.level}", p.bpp, step)
            self._board.add_scalar(f"psnr_db/{p.level}", p.psnr_db, step)
        shown = x_hat[0, : 3 if x_hat.shape[1] >= 3 else 1]
        self._board.add_image("restored", (shown + 0.5).clamp(0, 1), step)

    def close(self) -> None:
        """Flush everything."""
        self._file.close()
        self._board.close()

"""What a run learns from, and what is held out to judge it by."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from calotype.errors import InputError
from calotype.learn.data import Pictures, find_pictures, usable
from calotype.learn.plan import listing_of
from calotype.learn.samples import Form
from calotype.learn.watch import middle
from calotype.pixels import Picture, Samples

HELD_OUT_SHARE, MOST_HELD_OUT = 20, 24
MOST_CALIBRATION, CALIBRATION_PX = 200, 512
JUDGED_PX = 1024
"""Of larger pictures the middle goes into the card's curve: it takes 9 levels of each."""


@dataclass(frozen=True)
class Data:
    """What a run learns from and what it is looked at with.

    Attributes:
        listing: A line for each picture to learn from, by which a run knows whether it goes on with the same ones.
    """

    train: Pictures
    fine: Pictures | None
    validation: Pictures
    listing: bytes = b""

    @classmethod
    def find(
        cls,
        paths: list[Path],
        lossless: list[Path],
        validation: list[Path],
        least_px: int,
        device: torch.device,
        form: Form = Form(),  # noqa: B008 (it is frozen)
    ) -> Data:
        """Read pictures; without any for validation, one in 20 of the others is held out.

        None is learned from that is held out; but a single one is both.
        """
        held_out = find_pictures(validation) if validation else usable(paths, least_px)[::HELD_OUT_SHARE]
        held_out = held_out[:MOST_HELD_OUT]
        chosen = _without(paths, held_out)
        if not chosen:
            if validation:
                raise InputError("--validation: these are all the pictures: leave some to learn from")
            chosen = paths
        fine = _without(find_pictures(lossless), held_out) if lossless else []
        return cls(
            Pictures(chosen, least_px, device, form=form),
            Pictures(fine, least_px, device, form=form) if fine else None,
            Pictures(held_out, min(64, least_px), form=form),
            listing_of(f"{path.name}, {path.stat().st_size} bytes" for path in [*chosen, *fine] if path.is_file()),
        )

    @classmethod
    def of(cls, train: Sequence[Samples], validation: Sequence[Samples], device: torch.device) -> Data:
        """Pictures (h, w, c) that are in memory already."""
        listing = listing_of(f"image {i}, checksum {zlib.crc32(x.tobytes()):08x}" for i, x in enumerate(train))
        return cls(Pictures.of(train, device), None, Pictures.of(validation[:MOST_HELD_OUT], "cpu"), listing)

    @property
    def skipped(self) -> dict[Path, str]:
        """Files that were left out, and why."""
        fine = {} if self.fine is None else self.fine.skipped
        return self.train.skipped | fine | self.validation.skipped

    def calibration(self, seed: int) -> Iterator[Picture]:
        """The middles of some pictures to fit the tables to: of lossless ones if there are any."""
        for picture in (self.fine or self.train).sample(MOST_CALIBRATION, seed):
            yield _as_picture(middle(picture, CALIBRATION_PX, CALIBRATION_PX))

    def judges(self) -> list[Picture]:
        """What the bundle is judged by: the pictures held out."""
        return judges(self.validation)


def judges(pictures: Pictures) -> list[Picture]:
    """What a bundle is judged by, in real files: pictures, of larger ones the middle."""
    return [_as_picture(middle(picture, JUDGED_PX, JUDGED_PX)) for picture in pictures]


def _without(paths: list[Path], others: list[Path]) -> list[Path]:
    """Files that are none of the others, however each is spelled."""
    left_out = {path.resolve() for path in others}
    return [path for path in paths if path.resolve() not in left_out]


def _as_picture(samples: Tensor) -> Picture:
    """Samples (h, w, c) to be coded."""
    return Picture(samples.cpu().contiguous().numpy(), None, {})

"""One small image <-> a `.calo` file of its own, with the usual header (SPEC.md, section 10)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from calotype import container
from calotype.container import Container
from calotype.errors import InputError, UnsupportedFile
from calotype.header import TILE_UNIT_PX, Coding, Header
from calotype.pixels import Picture, as_grey
from calotype.runtime import Floats
from calotype.textbook.chunk import check_images, pack_symbols, quantise, unpack_symbols
from calotype.textbook.model import Model, TextbookBundle, values_of


@dataclass(frozen=True)
class ImageCoder:
    """A small image ready to be coded at any level; `y` is its latent (1, d)."""

    picture: Picture
    model: Model
    y: Floats

    @classmethod
    def of(cls, picture: Picture, model: Model) -> ImageCoder:
        """The latent of a picture.

        Raises:
            InputError: If the model does not code such pictures.
        """
        if picture.alpha is not None:
            raise InputError(f"the picture has alpha; the model {model.bundle.name} codes none")
        if model.bundle.image[2] == 1:
            picture = as_grey(picture)
        return cls(picture, model, model.analyse(check_images(model.bundle, picture.samples[None])))

    def at_level(self, level: int) -> bytes:
        """The file at a level."""
        bundle, picture = self.model.bundle, self.picture
        height, width, channels = bundle.image
        header = Header(width, height, channels, 8, False, _tile_px(bundle), Coding(bundle.id, 0, level))
        words = pack_symbols(bundle, quantise(self.y, level), level)
        return container.pack(header, picture.metadata, [words])

    def psnr_db(self, data: bytes) -> float:
        """PSNR of what a file of this image decodes to."""
        decoded = develop(container.unpack(data), self.model).samples
        error = np.mean((decoded.astype(np.float64) - self.picture.samples) ** 2)
        return float(10 * np.log10(255**2 / error)) if error else float("inf")

    @property
    def effort(self) -> int:
        """There is one only."""
        return 1

    @property
    def quick(self) -> ImageCoder:
        """Itself: it needs no search for better latents."""
        return self


def _tile_px(bundle: TextbookBundle) -> int:
    return -(-max(bundle.image[:2]) // TILE_UNIT_PX) * TILE_UNIT_PX


def develop(whole: Container, model: Model) -> Picture:
    """The picture of a file that names a textbook model.

    Raises:
        UnsupportedFile: If it is none of the model's images.
        DamagedFile: If its words do not end where they should.
    """
    header, bundle = whole.header, model.bundle
    assert header.coding is not None
    form = (header.height, header.width, header.channels)
    if form != bundle.image or header.depth != 8 or header.alpha or header.coding.head or len(whole.tiles) != 1:
        raise UnsupportedFile(f"the model {bundle.name} codes images of {bundle.image}, 8 bits; this file holds {form}")
    symbols = unpack_symbols(bundle, whole.tiles[0], header.coding.level, 1)
    samples = model.synthesise(values_of(bundle, symbols, header.coding.level))[0]
    return Picture(samples, None, whole.metadata)

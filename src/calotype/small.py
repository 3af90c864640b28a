"""Models of images of one size, many of which share a row of an archive."""

from __future__ import annotations

from math import prod

from calotype.bitsback.model import LatentBundle
from calotype.bitsback.model import Model as BitsBackModel
from calotype.bundle import ModelFile
from calotype.textbook import model as textbook
from calotype.textbook.model import Model as TextbookModel
from calotype.textbook.model import TextbookBundle

SmallModel = BitsBackModel | TextbookModel
CHUNK_IMAGES, CHUNK_SAMPLES = 1000, 1 << 20


def small_model(file: ModelFile) -> SmallModel:
    """The networks of a model of small images.

    Raises:
        InvalidModel: If it is a model for pictures of any size.
    """
    if isinstance(file, LatentBundle):
        return BitsBackModel(file)
    return TextbookModel(file if isinstance(file, TextbookBundle) else textbook.bundle_of(file))


def image_of(model: SmallModel) -> tuple[int, int, int]:
    """Height, width and channels of the images that a model codes."""
    return model.form.image if isinstance(model, BitsBackModel) else model.bundle.image


def chunk_images(model: SmallModel) -> int:
    """How many images should share a row: more take fewer bytes, fewer are decoded sooner."""
    return max(1, min(CHUNK_IMAGES, CHUNK_SAMPLES // chunk_size(model, 1)))


def chunk_size(model: SmallModel, images: int) -> int:
    """Samples of so many images, or the latents that a reader has at once, whichever are more."""
    latents = model.bundle.latents if isinstance(model, TextbookModel) else 0
    return images * max(prod(image_of(model)), latents)

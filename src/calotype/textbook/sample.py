"""Images that a model takes for likely ones, and many images as one."""

from __future__ import annotations

import math

import numpy as np

from calotype.textbook.model import Images, Model


def sample(model: Model, count: int, seed: int = 0) -> Images:
    """Images (n, h, w, c) of latents that are drawn from the model's tables, each latent by itself.

    So it draws what the entropy coder expects. For a VAE that is nearly its prior; an autoencoder's latents depend on
    each other in ways that its tables do not know, and its samples show it.
    """
    random = np.random.default_rng(seed)
    y = np.empty((count, model.bundle.latents), np.float32)
    for column, table in enumerate(model.bundle.tables.tables):
        share = table.frequencies[:-1] / table.frequencies[:-1].sum(dtype=np.float64)
        y[:, column] = random.choice(np.arange(-table.radius, table.radius + 1), count, p=share)
    return model.synthesise(y)


def mosaic_of(images: Images) -> Images:
    """Images (n, h, w, c) as one picture of about as many rows as columns; places that are left stay black."""
    count, height, width, channels = images.shape
    columns = math.ceil(math.sqrt(count))
    rows = math.ceil(count / columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = images
    sheet = sheet.reshape(rows, columns, height, width, channels).swapaxes(1, 2)
    return sheet.reshape(rows * height, columns * width, channels)

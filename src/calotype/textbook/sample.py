"""Images that a model takes for likely ones."""

from __future__ import annotations

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

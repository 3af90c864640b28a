"""Sheets of images: rows that a reader compares."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from calotype.datasets import Split
from calotype.explore.study import Floats, Study
from calotype.textbook.model import Images

SHOWN, STEPS = 16, 11
REACH_STD = 2.5
TRAVERSED = 8
LEAST_SIDE_PX = 56
GAP_PX = 3
PAPER = 255
NEIGHBOUR_BLOCK = 4096


def sheet(rows: Sequence[Images]) -> NDArray[np.uint8]:
    """Rows of images (n, h, w, c) as one picture (h, w, 3), enlarged by a whole number, with gaps between."""
    count, height, width, _ = rows[0].shape
    scale = max(1, LEAST_SIDE_PX // height)
    step = np.array([height, width]) * scale + GAP_PX
    whole = np.full((*(step * (len(rows), count) - GAP_PX), 3), PAPER, np.uint8)
    for top, row in enumerate(rows):
        for left, image in enumerate(row):
            large = image.repeat(scale, 0).repeat(scale, 1)
            y, x = step * (top, left)
            whole[y : y + len(large), x : x + large.shape[1]] = large
    return whole


def one_of_each(split: Split, count: int = SHOWN) -> Images:
    """The first images of each label in turn."""
    order = np.argsort(split.labels, kind="stable")
    rank = np.empty(len(split), int)
    for label in np.unique(split.labels):
        chosen = order[split.labels[order] == label]
        rank[chosen] = np.arange(len(chosen))
    return split.images[np.lexsort((split.labels, rank))[:count]]


def restored(originals: Images, back: Images) -> NDArray[np.uint8]:
    """Originals, what came back, and how far it is off: black for nothing, white for the whole range."""
    off = np.abs(back.astype(int) - originals).mean(3) / PAPER
    colours = mpl.colormaps["inferno"](off)[..., :3]
    return sheet([originals, back, np.floor(colours * PAPER + 0.5).astype(np.uint8)])


def traversals(study: Study, y: Floats, axes: Sequence[int]) -> NDArray[np.uint8]:
    """A row for each latent: it alone moves, from low to high, and all others stay at their mean."""
    middle, reach = y.mean(0), y.std(0) * REACH_STD
    rows = np.repeat(middle[None], len(axes) * STEPS, 0)
    moves = np.linspace(-1, 1, STEPS)
    for row, axis in enumerate(axes):
        rows[row * STEPS : (row + 1) * STEPS, axis] += moves * reach[axis]
    return sheet(np.split(study.synthesise(rows), len(axes)))


def interpolations(study: Study, images: Images) -> NDArray[np.uint8]:
    """Each row leads from one image to the next, in equal steps of the latents; then comes another pair."""
    y = study.analyse(images)
    share = np.linspace(0, 1, STEPS)[:, None]
    pairs = list(zip(y[0::2], y[1::2], strict=False))
    rows = np.concatenate([first * (1 - share) + second * share for first, second in pairs])
    return sheet(np.split(study.synthesise(rows), len(pairs)))


def nearest(images: Images, among: Images) -> Images:
    """Of each image the one among others that differs least, by squared error."""
    wanted = images.reshape(len(images), -1).astype(np.float32)
    best, place = np.full(len(images), np.inf), np.zeros(len(images), int)
    for start in range(0, len(among), NEIGHBOUR_BLOCK):
        block = among[start : start + NEIGHBOUR_BLOCK].reshape(-1, wanted.shape[1]).astype(np.float32)
        distance = np.square(block).sum(1) - 2 * wanted @ block.T
        closest = distance.argmin(1)
        found = distance[np.arange(len(images)), closest]
        better = found < best
        best[better], place[better] = found[better], start + closest[better]
    return among[place]

"""Slow decoders of small images, written from SPEC.md alone: sections 8 (bits back) and 10 (textbook)."""

from __future__ import annotations

import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np

from reference_decoder import (
    Bytes,
    Graph,
    Rans,
    Table,
    by_table,
    pop_symbols,
    read_header,
    read_members,
    read_tables,
    read_tiles,
    require,
    running_sums,
)

# [8] bits back


class BitsBack:
    """A model of kind `bits-back`, and its chunks."""

    def __init__(self, path: Path) -> None:
        card, members, self.id = read_members(path)
        require(card["kind"] == "bits-back", "kind")
        self.image, self.patch, self.shapes = card["image"], card["patch"], card["shapes"]
        self.latents, self.prior_scale = [tuple(shape) for shape in card["latents"]], card["prior_scale"]
        layers = range(len(self.latents))
        self.posterior = [Graph(members[f"posterior_{layer}.onnx"]) for layer in layers]
        self.prior = [Graph(members[f"prior_{layer}.onnx"]) if layer else None for layer in layers]
        self.likelihood = Graph(members["likelihood.onnx"])
        self.scales = [running_sums(row) for row in np.frombuffer(members["scales.u32"], "<u4").reshape(-1, 512)]
        self.pixels = [running_sums(row) for row in np.frombuffer(members["pixels.u32"], "<u4").reshape(-1, 256)]

    def _of_layer(self, graph: Graph | None, layer: int, **inputs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and tables of a layer's latents, flat."""
        if graph is None:
            size = int(np.prod(self.latents[layer]))
            return np.zeros(size, int), np.full(size, self.prior_scale)
        mean, index = graph(**inputs)
        require(bool((abs(mean) <= 8184).all() and (index >= 0).all() and (index <= 255).all()), "means, indices")
        return mean.ravel(), index.ravel()

    def _to_x(self, samples: np.ndarray) -> np.ndarray:
        """[8]: channel (c P + i) Q + j, row r, column s is channel c at row r P + i and column s Q + j."""
        (height, width, channels), (p, q) = self.image, self.patch
        x = np.zeros((channels * p * q, height // p, width // q), int)
        for c, i, j in np.ndindex(channels, p, q):
            x[(c * p + i) * q + j] = samples[i::p, j::q, c]
        return x

    def _to_image(self, x: np.ndarray) -> np.ndarray:
        (height, width, channels), (p, q) = self.image, self.patch
        image = np.zeros((height, width, channels), int)
        for c, i, j in np.ndindex(channels, p, q):
            image[i::p, j::q, c] = x[(c * p + i) * q + j]
        return image

    def _decode_image(self, rans: Rans, *, last: bool) -> np.ndarray:
        z: dict[str, np.ndarray] = {}
        for layer, graph in enumerate(self.prior):
            mean, index = self._of_layer(graph, layer, **z)
            symbols = pop_plain(rans, self.scales, index)
            z[f"z_{layer}"] = ((symbols + mean) % 512 - 256).reshape(1, *self.latents[layer])
        mean, index = self.likelihood(**z)
        x = pop_plain(rans, self.pixels, (mean * self.shapes + index).ravel()).reshape(mean.shape)
        for layer in reversed(range(0 if last else len(self.latents))):
            before = {f"z_{i}": z[f"z_{i}"] for i in range(layer)}
            mean, index = self._of_layer(self.posterior[layer], layer, x=x, **before)
            push_plain(rans, self.scales, index, (z[f"z_{layer}"].ravel() - mean + 256) % 512)
        return self._to_image(x[0])

    def decode(self, chunk: bytes, count: int) -> np.ndarray:
        """Images (count, H, W, C) of a chunk."""
        source = Bytes(chunk)
        crc, rans = source.number(4), Rans(source.rest())
        images = np.stack([self._decode_image(rans, last=i == count - 1) for i in range(count)])
        rans.finish()
        require(zlib.crc32(images.astype(np.uint8).tobytes()) == crc, "crc of the samples")
        return images


def pop_plain(rans: Rans, tables: list[list[int]], index: np.ndarray) -> np.ndarray:
    """Symbols under tables without an escape."""
    symbols = np.zeros(len(index), int)
    for i in by_table(index.tolist()):
        symbols[i] = rans.pop(tables[index[i]])
    return symbols


def push_plain(rans: Rans, tables: list[list[int]], index: np.ndarray, symbols: np.ndarray) -> None:
    for i in reversed(by_table(index.tolist())):
        rans.push(tables[index[i]], int(symbols[i]))


# [10] textbook


def step_of(level: int) -> int:
    t = 255 - level
    return int(Fraction(42 + t % 42) * 2 ** (t // 42) / 42)


def coarser(radius: int, frequencies: list[int], k: int) -> Table:
    """[10.1]: the table of a latent at the step k, from that in bins."""
    symbol = [(b + k // 2) // k for b in range(-radius, radius + 1)]
    reach = max(1, *map(abs, symbol))
    sums = [0] * (2 * reach + 1)
    for s, q in zip(symbol, frequencies, strict=False):
        sums[s + reach] += q
    empty = [s for s, total in enumerate(sums) if total == 0]
    for s in empty:
        sums[s] = 1
    sums[reach] -= len(empty)
    return Table(reach, running_sums(np.array([*sums, frequencies[-1]])))


class Textbook:
    """A model of kind `textbook`: chunks of symbols, and files of one image."""

    def __init__(self, path: Path) -> None:
        card, members, self.id = read_members(path)
        require(card["kind"] == "textbook", "kind")
        self.image, self.latents = card["image"], card["latents"]
        self.tables = read_tables(members["tables.u32"], members["radii.u16"])
        require(len(self.tables) == self.latents, "table i belongs to latent i")
        require(not any(table.quiet for table in self.tables), "none is quiet")

    def symbols(self, words: bytes, level: int, count: int) -> np.ndarray:
        """Symbols (count, d) of words [10.2]."""
        k = step_of(level)
        tables = [coarser(t.radius, list(np.diff(t.starts)), k) for t in self.tables]
        rans = Rans(words)
        columns = [pop_symbols(rans, tables, [latent] * count) for latent in range(self.latents)]
        rans.finish()
        return np.array(columns).T

    def decode_chunk(self, chunk: bytes, count: int) -> np.ndarray:
        source = Bytes(chunk)
        level = source.number(1)
        return self.symbols(source.rest(), level, count)

    def decode_file(self, data: bytes) -> np.ndarray:
        source = Bytes(data)
        header = read_header(source)
        require(header.model == self.id and [header.height, header.width] == self.image[:2], "model and size")
        (words,) = read_tiles(source, header)
        return self.symbols(words, header.level, 1)

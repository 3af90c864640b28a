"""A slow decoder of latents, written from SPEC.md alone: integers and numpy, nothing of calotype.

It is the spec's test: where it and the product differ, one of the three is wrong. Brackets hold
the sections of SPEC.md.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby
from pathlib import Path
from typing import Any

import numpy as np

from reference_graph import Graph, Refused, require

INDEX, TILE, ANCILLARY, LAST = 1, 2, 0x40, 0x80


@dataclass
class Bytes:
    """Reads one field after another."""

    data: bytes
    at: int = 0

    def take(self, size: int) -> bytes:
        require(0 <= size <= len(self.data) - self.at, f"{size} bytes at {self.at} of {len(self.data)}")
        self.at += size
        return self.data[self.at - size : self.at]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def varint(self) -> int:
        value = 0
        for place in range(5):
            byte = self.number(1)
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                require(byte > 0 or place == 0, "a varint is as short as possible")
                return value
        raise Refused("a varint has at most five bytes")

    def rest(self) -> bytes:
        return self.take(len(self.data) - self.at)


# [1] the file


@dataclass(frozen=True)
class Header:
    lossless: bool
    alpha: bool
    width: int
    height: int
    channels: int
    tile_px: int
    model: bytes
    level: int
    crc: int

    def tiles(self) -> list[tuple[int, int]]:
        """Height and width of each, in raster order [2]."""
        heights, widths = (
            [min(self.tile_px, n - i) for i in range(0, n, self.tile_px)] for n in (self.height, self.width)
        )
        return [(h, w) for h in heights for w in widths]


def read_header(source: Bytes) -> Header:
    require(source.take(4) == b"\xca\x10\x0d\x0a", "magic")
    require(source.number(1) == 1, "version")
    flags = source.number(1)
    require(flags < 8, "flags")
    lossless, alpha, colour = (bool(flags & bit) for bit in (1, 2, 4))
    width, height = source.varint(), source.varint()
    require(0 < width < 1 << 24 and 0 < height < 1 << 24 and width * height <= 1 << 40, "size")
    samples, mapping, tile = source.number(1), source.number(1), source.number(1)
    require(samples >> 4 in (7, 15) and mapping == 0 and 1 <= tile <= 16, "samples, mapping, tile")
    model, _head, level = (b"", 0, 0) if lossless else (source.take(8), source.number(1), source.number(1))
    require(not colour or source.take(4)[2:] == b"\0\1", "colour")
    crc = zlib.crc32(source.data[: source.at])
    require(source.number(4) == crc, "crc of the header")
    return Header(lossless, alpha, width, height, (samples & 15) + 1, 64 * tile, model, level, crc)


def read_chunk(source: Bytes, header_crc: int, ordinal: int) -> tuple[int, bytes]:
    start = source.at
    kind, length = source.number(1), source.varint()
    require(length <= 1 << 30, "length")
    payload = source.take(length)
    covered = header_crc.to_bytes(4, "little") + ordinal.to_bytes(4, "little") + source.data[start : source.at]
    require(source.number(4) == zlib.crc32(covered), f"crc of chunk {ordinal}")
    return kind, payload


def inflate(payload: bytes) -> bytes:
    stream = zlib.decompressobj()
    content = stream.decompress(payload, (1 << 24) + 1)
    require(stream.eof and not stream.unused_data and len(content) <= 1 << 24, "zlib stream")
    return content


def read_tiles(source: Bytes, header: Header) -> list[bytes]:
    """The payloads of the TILE chunks."""
    count = len(header.tiles())
    tiles: list[bytes] = []
    sizes: list[int] = []
    indices, ancillary = 0, set[int]()
    for ordinal in range(1 << 20):
        start = source.at
        kind, payload = read_chunk(source, header.crc, ordinal)
        last, extra, kind = bool(kind & LAST), bool(kind & ANCILLARY), kind & 63
        if extra:
            require(not tiles and not sizes and kind not in ancillary, "order of chunks")
            ancillary.add(kind)
            if kind in (1, 2, 3):
                inflate(payload)
        elif kind == INDEX:
            require(not tiles and not indices and count > 1, "INDEX")
            index = Bytes(payload)
            sizes = [index.varint() for _ in range(count)]
            require(index.rest() == b"" and sum(sizes) == len(source.data) - source.at, "sizes in INDEX")
            indices += 1
        else:
            require(kind == TILE and indices == (count > 1), "kind and order of chunks")
            require(not sizes or source.at - start == sizes[len(tiles)], "sizes in INDEX")
            tiles.append(payload)
        require(last == (len(tiles) == count), "the last chunk")
        if last:
            break
    require(source.rest() == b"", "nothing follows")
    return tiles


# [4] entropy coding


class Rans:
    """A stack of symbols."""

    def __init__(self, data: bytes) -> None:
        require(len(data) % 4 == 0, "whole words")
        self.words = [int(word) for word in np.frombuffer(data, "<u4")]
        require(not self.words or self.words[-1] != 0, "the last word is not 0")
        self.state = 0
        self.skips = False
        self.refill()

    def refill(self) -> None:
        while self.state < 1 << 32 and self.words:
            self.state = self.state << 32 | self.words.pop()

    def pop(self, starts: list[int]) -> int:
        """A symbol of the table whose running sums C_0 = 0, C_1 ... 2^24 are given."""
        r = self.state & 0xFFFFFF
        symbol = bisect_right(starts, r) - 1
        self.state = (self.state >> 24) * (starts[symbol + 1] - starts[symbol]) + r - starts[symbol]
        self.refill()
        return symbol

    def push(self, starts: list[int], symbol: int) -> None:
        frequency = starts[symbol + 1] - starts[symbol]
        if self.state >= frequency << 40:
            self.words.append(self.state & 0xFFFFFFFF)
            self.state >>= 32
        self.state = (self.state // frequency << 24) + self.state % frequency + starts[symbol]

    def finish(self) -> None:
        require(self.state == 0 and not self.words, "the state ends at 0 with no words left")


@dataclass(frozen=True)
class Table:
    """[4.2]: symbols -radius ... radius, then the escape."""

    radius: int
    starts: list[int]
    quiet: bool = False


def running_sums(frequencies: np.ndarray) -> list[int]:
    require(bool((frequencies > 0).all()) and int(frequencies.sum(dtype=np.uint64)) == 1 << 24, "frequencies")
    return [0, *accumulate(int(q) for q in frequencies)]


def by_table(index: Sequence[int]) -> list[int]:
    """[3.3]: the order of symbols, given the table of each."""
    return sorted(range(len(index)), key=index.__getitem__)


UNIFORM = list(range(0, (1 << 24) + 1, 256))


def pop_symbols(rans: Rans, tables: list[Table], index: list[int]) -> list[int]:
    """Symbols of elements with these tables, coded in the order of section 3.3."""
    symbols = [0] * len(index)
    for number, group in groupby(by_table(index), key=index.__getitem__):
        table, elements = tables[number], list(group)
        if table.quiet and rans.skips:
            continue
        for i in elements:
            symbols[i] = rans.pop(table.starts) - table.radius
        for i in elements:
            if symbols[i] > table.radius:
                symbols[i] = rans.pop(UNIFORM) - 32768
                require(abs(symbols[i]) > table.radius, "an escape exceeds the radius")
                require(abs(symbols[i]) <= 32767, "symbols lie within +-32767")
    return symbols


# [5] the model


def read_members(path: Path) -> tuple[dict[str, Any], dict[str, bytes], bytes]:
    """Manifest, members and id."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    manifest = json.loads(members["manifest.json"])
    lines = [f"{name} {hashlib.sha256(members[name]).hexdigest()}\n" for name in sorted(manifest["decoding"])]
    return manifest, members, hashlib.sha256("".join(lines).encode()).digest()[:8]


def read_tables(frequencies: bytes, radii: bytes) -> list[Table]:
    left, tables = np.frombuffer(frequencies, "<u4"), []
    for number in map(int, np.frombuffer(radii, "<u2")):
        quiet, radius = divmod(number, 1 << 15)
        require(1 <= radius <= 4095, "radius")
        tables.append(Table(radius, running_sums(left[: 2 * radius + 2]), quiet == 1))
        left = left[2 * radius + 2 :]
    require(left.size == 0, "tables.u32 has nothing else")
    return tables


class Model:
    """What decoding the latents of photographs needs."""

    def __init__(self, path: Path) -> None:
        manifest, members, self.id = read_members(path)
        require(manifest["format"] == 1 and "kind" not in manifest, "format and kind")
        self.m, self.k, self.p = (manifest[key] for key in ("y_channels", "z_channels", "prior_channels"))
        self.n = manifest["steps"]
        self.tables = read_tables(members["tables.u32"], members["radii.u16"])
        self.z_offset = np.frombuffer(members["z_offset.i16"], "<i2").reshape(256, self.k)
        self.z_table = np.frombuffer(members["z_table.u8"], "u1").reshape(256, self.k)
        self.z_weight = self.z_near = None
        if "z_near.u8" in manifest["decoding"]:
            self.z_weight = np.frombuffer(members["z_weight.i8"], "i1").reshape(2, self.k).tolist()
            self.z_near = np.frombuffer(members["z_near.u8"], "u1").reshape(-1, 32).tolist()
        self.level_bias = np.frombuffer(members["level_bias.i16"], "<i2").reshape(256, self.p)
        self.h_s = Graph(members["h_s.onnx"])
        self.steps = [Graph(members[f"step_{t}.onnx"]) for t in range(self.n)]

    def step_of(self, rows: int, columns: int) -> np.ndarray:
        """[3.2]: the step of every element of y."""
        c, i, j = np.indices((self.m, rows, columns))
        e = 2 * ((i + j) % 2) + i % 2
        return (e ^ (4 * c // self.m)) * self.n // 4


# [3] latents


def part_of_z(model: Model, i: int, j: int) -> int:
    """[3.4]"""
    return 0 if model.z_weight is None or i % 2 == j % 2 == 0 else 1 if i % 2 == j % 2 == 1 else 2


def given_neighbours(model: Model, level: int, z: np.ndarray, place: tuple[int, int, int]) -> tuple[int, int]:
    """[3.4]: mean and table of an element of z."""
    c, i, j = place
    offset, table = int(model.z_offset[level][c]), int(model.z_table[level][c])
    part = part_of_z(model, i, j)
    if part == 0:
        return offset, table
    away = [(-1, -1), (-1, 1), (1, -1), (1, 1)] if part == 1 else [(-1, 0), (0, -1), (0, 1), (1, 0)]
    places = [(i + a, j + b) for a, b in away if 0 <= i + a < z.shape[1] and 0 <= j + b < z.shape[2]]
    u = [int(z[c][near]) - offset for near in places]
    mean = offset + (model.z_weight[part - 1][c] * sum(u) + 128) // 256
    return max(-127, min(127, mean)), model.z_near[table][min(31, sum(map(abs, u)))]


def read_z(model: Model, level: int, rans: Rans, rows: int, columns: int) -> np.ndarray:
    z = np.zeros((model.k, rows, columns), np.int64)
    for part in range(1 if model.z_weight is None else 3):
        places = [place for place in np.ndindex(z.shape) if part_of_z(model, *place[1:]) == part]
        given = [given_neighbours(model, level, z, place) for place in places]
        symbols = pop_symbols(rans, model.tables, [table for _, table in given])
        for place, (mean, _), s in zip(places, given, symbols, strict=True):
            z[place] = mean + s
    require(bool((abs(z) <= 127).all()), "z lies within -127..127")
    return z


def whole(given: np.ndarray, here: np.ndarray) -> np.ndarray:
    """[5.2]: what a step's graph gives, with 0 where it gives nothing; `here` says which elements are the step's."""
    if given.shape == here.shape:
        return given
    out, places = np.zeros(here.shape, np.int64), [(0, 0), (0, 1), (1, 0), (1, 1)]
    for (i, j), quarter in zip(places, np.split(given, 4), strict=True):
        channels = [c for c in range(len(here)) if here[c, i, j]]
        out[channels, i::2, j::2] = quarter
    return out


def read_y8(model: Model, level: int, rans: Rans, z: np.ndarray, height: int, width: int) -> np.ndarray:
    (features,) = model.h_s(z=z[None], level_bias=model.level_bias[level][None, :, None, None])
    rows, columns = 4 * z.shape[1], 4 * z.shape[2]
    step_of = model.step_of(rows, columns)
    coded = np.zeros(step_of.shape, bool)
    coded[:, : -(-height // 16), : -(-width // 16)] = True
    y8 = np.zeros(step_of.shape, np.int64)
    for t, graph in enumerate(model.steps):
        known = {"known": y8[None]} if t else {}
        here = step_of == t
        mean, index = (whole(output[0], here) for output in graph(features=features, **known))
        symbols = np.zeros(y8.shape, np.int64)
        symbols[here & coded] = pop_symbols(rans, model.tables, index[here & coded].tolist())
        y8[here] = (mean + 8 * symbols)[here]
    return y8


def decode_tile(model: Model, header: Header, payload: bytes, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """z and y8 of a tile, checked."""
    source = Bytes(payload)
    if header.alpha:
        source.take(source.varint())
    crc, rans = source.number(4), Rans(source.rest())
    rans.skips = any(table.quiet for table in model.tables) and rans.pop([0, 1 << 23, 1 << 24]) == 1
    z = read_z(model, header.level, rans, -(-height // 64), -(-width // 64))
    y8 = read_y8(model, header.level, rans, z, height, width)
    rans.finish()
    require(zlib.crc32(z.astype("<i2").tobytes() + y8.astype("<i4").tobytes()) == crc, "latents crc")
    return z, y8


def decode(data: bytes, model: Model) -> list[tuple[np.ndarray, np.ndarray]]:
    """z and y8 of every tile of a file."""
    source = Bytes(data)
    header = read_header(source)
    require(not header.lossless and header.model == model.id, "the model")
    tiles = zip(read_tiles(source, header), header.tiles(), strict=True)
    return [decode_tile(model, header, payload, height, width) for payload, (height, width) in tiles]


# [6.1] post-filter

TAPS = [(0, 0), (0, 1), (0, 2), *((a, b) for a in (1, 2) for b in range(-2, 3))]


def read_weights(payload: bytes, tiles: int) -> list[np.ndarray]:
    source, weights = Bytes(payload), list[np.ndarray]()
    for _ in range(tiles):
        count = source.number(1)
        require(count <= 128, "number of weights")
        weights.append(np.frombuffer(source.take(count), "i1"))
    require(source.rest() == b"", "nothing follows the weights")
    return weights


def filtered(x: np.ndarray, weights: np.ndarray, modes: bytes) -> np.ndarray:
    """All of a picture (3, h, w) with the weights of one tile."""
    s = np.pad(np.clip(x.astype(np.float64), -0.5, 0.5), ((0, 0), (2, 2), (2, 2)), "edge")
    height, width = x.shape[1:]

    def moved(i: int, j: int) -> np.ndarray:
        return s[:, 2 + i : 2 + i + height, 2 + j : 2 + j + width]

    def mean_of_nine(plane: np.ndarray) -> np.ndarray:
        around = np.pad(plane, 1, "edge")
        return np.mean([around[i : i + height, j : j + width] for i in range(3) for j in range(3)], axis=0)

    light = moved(0, 0).mean(axis=0)
    busy = mean_of_nine(abs(light - mean_of_nine(light)))
    u = np.concatenate([moved(0, 0), *(moved(a, b) + moved(-a, -b) for a, b in TAPS[1:])])
    u = np.concatenate([u, u * busy / (busy + 3 / 255), u * light])
    out = moved(0, 0).copy()
    for w, record in zip(weights.tolist(), np.frombuffer(modes, "i1").reshape(128, 352), strict=False):
        out += w * np.einsum("cq,qij->cij", record[1:].reshape(3, 117).astype(float), u) / 2.0 ** int(record[0])
    return out

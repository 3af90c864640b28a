"""The graphs of SPEC.md, section 5.2, in int64: every tensor is integers times a power of two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper


class Refused(Exception):  # noqa: N818 (named by what happens to it)
    """The file or model breaks a rule of SPEC.md."""


def require(holds: bool, rule: str) -> None:
    if not holds:
        raise Refused(rule)


@dataclass(frozen=True)
class Dyadic:
    """An array of integers times 2^exponent."""

    integers: np.ndarray
    exponent: int = 0

    @classmethod
    def of(cls, values: np.ndarray) -> Dyadic:
        mantissa, exponent = np.frexp(values.astype(np.float64))
        integers = (mantissa * 2.0**53).astype(np.int64)  # exact; values = integers * 2^(exponent - 53)
        powers = exponent.astype(np.int64) - 53
        lowest = integers & -integers
        zeros = np.log2(np.where(integers == 0, 1, lowest).astype(np.float64)).astype(np.int64)
        grid = int(np.where(integers == 0, 1 << 20, powers + zeros).min())
        grid = 0 if grid == 1 << 20 else grid
        return cls(shifted(integers >> zeros, np.where(integers == 0, 0, powers + zeros - grid)), grid)

    def at(self, exponent: int) -> np.ndarray:
        """Its integers if they are to be times 2^exponent, which is not above its own."""
        return shifted(self.integers, np.int64(self.exponent - exponent))


def shifted(integers: np.ndarray, left: np.ndarray | np.int64) -> np.ndarray:
    require(bool((left >= 0).all()), "only to a finer grid")
    require(bool((left < 62).all()) and bool((abs(integers) < np.int64(1) << (62 - left)).all()), "64 bits are enough")
    return integers << left


def aligned(*parts: Dyadic) -> tuple[int, list[np.ndarray]]:
    exponent = min(part.exponent for part in parts)
    return exponent, [part.at(exponent) for part in parts]


def floor(x: Dyadic) -> Dyadic:
    return Dyadic(x.integers >> -x.exponent) if x.exponent < 0 else Dyadic(x.at(0))


def clip(x: Dyadic, low: Dyadic, high: Dyadic) -> Dyadic:
    exponent, (n, lo, hi) = aligned(x, low, high)
    return Dyadic(n.clip(lo, hi), exponent)


def add(x: Dyadic, y: Dyadic) -> Dyadic:
    exponent, (a, b) = aligned(x, y)
    return Dyadic(a + b, exponent)


def convolve(x: Dyadic, weight: Dyadic, bias: Dyadic, group: int = 1, pads: tuple[int, ...] = (0,), **_: Any) -> Dyadic:
    """1x1, in groups or not, or depthwise 3x3 with a ring of zeros."""
    a, k = x.integers, weight.integers
    if k.shape[2:] == (1, 1):
        rows, columns = a.shape[2:]
        inputs = np.ascontiguousarray(a.reshape(group, k.shape[1], -1).transpose(0, 2, 1))
        total = np.einsum("goi,gpi->gop", k.reshape(group, -1, k.shape[1]), inputs).reshape(1, -1, rows, columns)
    else:
        ring, (rows, columns) = np.pad(a, ((0, 0), (0, 0), (1, 1), (1, 1))), a.shape[2:]
        total = sum(
            k[:, 0, i, j, None, None] * ring[:, :, i : i + rows, j : j + columns] for i in range(3) for j in range(3)
        )
    bound = int(abs(k).sum(axis=(1, 2, 3)).max()) * int(abs(a).max(initial=0))
    require(bound < 1 << 62 and max(pads) == (k.shape[2] == 3), "64 bits are enough; zeros surround a 3x3")
    sums = Dyadic(np.asarray(total), x.exponent + weight.exponent)
    return add(sums, Dyadic(bias.integers.reshape(1, -1, 1, 1), bias.exponent))


def depth_to_space(x: Dyadic, blocksize: int, mode: bytes) -> Dyadic:
    require(mode == b"CRD", "mode CRD")
    n, c, h, w = x.integers.shape
    blocks = x.integers.reshape(n, c // blocksize**2, blocksize, blocksize, h, w)
    return Dyadic(blocks.transpose(0, 1, 4, 2, 5, 3).reshape(n, -1, h * blocksize, w * blocksize), x.exponent)


def space_to_depth(x: Dyadic, blocksize: int) -> Dyadic:
    n, c, h, w = x.integers.shape
    blocks = x.integers.reshape(n, c, h // blocksize, blocksize, w // blocksize, blocksize)
    return Dyadic(blocks.transpose(0, 3, 5, 1, 2, 4).reshape(n, -1, h // blocksize, w // blocksize), x.exponent)


def concat(*parts: Dyadic, axis: int) -> Dyadic:
    exponent, integers = aligned(*parts)
    return Dyadic(np.concatenate(integers, axis), exponent)


OPERATORS: dict[str, Any] = {
    "Conv": convolve,
    "Mul": lambda x, y: Dyadic(x.integers * y.integers, x.exponent + y.exponent),
    "Add": add,
    "Floor": floor,
    "Clip": clip,
    "Concat": concat,
    "Cast": lambda x, **_: x,
    "DepthToSpace": depth_to_space,
    "SpaceToDepth": space_to_depth,
}


class Graph:
    """An ONNX graph, computed in int64."""

    def __init__(self, raw: bytes) -> None:
        graph = onnx.load_from_string(raw).graph
        self.constants = {t.name: Dyadic.of(numpy_helper.to_array(t)) for t in graph.initializer}
        self.nodes = list(graph.node)
        self.outputs = [output.name for output in graph.output]

    def __call__(self, **inputs: np.ndarray) -> list[np.ndarray]:
        values = self.constants | {name: Dyadic(value.astype(np.int64)) for name, value in inputs.items()}
        for node in self.nodes:
            attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            values[node.output[0]] = OPERATORS[node.op_type](*(values[name] for name in node.input), **attributes)
        return [values[name].at(0) for name in self.outputs]

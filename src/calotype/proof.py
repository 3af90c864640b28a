"""Checks of graphs that did not ship: allowed operators only, and the proof that a prior is exact in float32.

The proof walks a graph of the prior and keeps, for every channel of every tensor, the largest magnitude and the grid (a
power of two) that its values lie on. Wherever terms are summed it demands that their magnitudes, in units of the grid,
stay below 2^24: then every partial sum is a number that float32 holds, and the order of summation cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper

from calotype.bundle import MAX_BUNDLE_BYTES, Bundle
from calotype.errors import InvalidModel

EXACT_LIMIT = 2.0**24
OPSET = 17
EXACT_OPERATORS = {"Conv", "Mul", "Add", "Floor", "Clip", "Concat", "Cast", "DepthToSpace"}
FLOAT_OPERATORS = EXACT_OPERATORS | {"Sigmoid", "Gather", "SpaceToDepth", "Sign", "Abs", "Log", "Reshape"}
MAX_NODES = 2000

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """What is known of a tensor: per channel the largest magnitude and the grid."""

    limit: Floats
    grid: Floats


@dataclass(frozen=True)
class Layer:
    """How near one sum comes to the bound."""

    name: str
    used: float


def _grid_of(values: Floats, axis: tuple[int, ...] | None = None) -> Floats:
    """The largest power of two of which all values (float32 numbers) are multiples."""
    mantissa, exponent = np.frexp(values)
    integer = np.abs(mantissa * EXACT_LIMIT).astype(np.int64)
    low_bit = np.where(integer == 0, EXACT_LIMIT**2, (integer & -integer).astype(np.float64))
    return np.min(low_bit * 2.0 ** (exponent - 24), axis=axis)


class Prover:
    """Walks one graph of the prior."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.graph, self.name = model.graph, name
        self.constants = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in self.graph.initializer}
        self.ranges: dict[str, Range] = {}
        self.layers: list[Layer] = []

    def prove(self) -> list[Layer]:
        """Every sum of the graph with the part of the bound it may use.

        Raises:
            InvalidModel: If a sum may leave the bound, or an operator is used in a way that is not exact.
        """
        for node in self.graph.node:
            steps: dict[str, Callable[[onnx.NodeProto], None]] = {
                "Conv": self._conv, "Add": self._add, "Mul": self._mul, "Floor": self._floor,
                "Clip": self._clip, "Concat": self._concat, "Cast": self._cast, "DepthToSpace": self._shuffle,
            }  # fmt: skip
            steps[node.op_type](node)
        return self.layers

    def _range(self, name: str) -> Range:
        if name in self.constants:
            value = self.constants[name].reshape(1)
            return Range(np.abs(value), _grid_of(value[:, None], axis=(1,)))
        if name not in self.ranges:
            raise InvalidModel(f"{self.name}: {name} is used before anything limits it")
        return self.ranges[name]

    def _sum(self, node: onnx.NodeProto, limit: Floats, grid: Floats) -> None:
        used = float((limit / grid).max() / EXACT_LIMIT)
        if used >= 1:
            raise InvalidModel(f"{self.name}: {node.output[0]} may reach {used:.2f} times the bound of 2^24")
        self.layers.append(Layer(f"{self.name}/{node.output[0]}", used))
        self.ranges[node.output[0]] = Range(limit, grid)

    def _conv(self, node: onnx.NodeProto) -> None:
        x, (w, b) = self._range(node.input[0]), (self.constants[n] for n in node.input[1:3])
        attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        group, kernel = attributes.get("group", 1), w.shape[2:]
        depthwise = group == w.shape[0] == len(x.limit) and w.shape[1] == 1
        if not ((group == 1 and kernel == (1, 1)) or (depthwise and kernel == (3, 3))):
            raise InvalidModel(f"{self.name}: {node.output[0]} is neither a 1x1 nor a depthwise 3x3 convolution")
        taps, limit, grid = np.abs(w).reshape(len(w), -1), x.limit, x.grid
        grids = _grid_of(w.reshape(len(w), -1), axis=(1,)) * (grid if depthwise else grid.min())
        reach = taps.sum(1) * limit if depthwise else taps @ limit
        self._sum(node, reach + np.abs(b), np.minimum(grids, _grid_of(b[:, None], axis=(1,))))

    def _add(self, node: onnx.NodeProto) -> None:
        a, b = (self._range(n) for n in node.input)
        self._sum(node, a.limit + b.limit, np.minimum(a.grid, b.grid))

    def _mul(self, node: onnx.NodeProto) -> None:
        left, right = node.input
        if left in self.constants and right in self.constants:
            self.constants[node.output[0]] = self.constants[left] * self.constants[right]
            return
        x, factor = self._range(left), self.constants[right]
        if factor.size != 1 or _grid_of(factor) != np.abs(factor):
            raise InvalidModel(f"{self.name}: {node.output[0]} multiplies by something that is no power of two")
        self.ranges[node.output[0]] = Range(x.limit * float(factor), x.grid * float(factor))

    def _floor(self, node: onnx.NodeProto) -> None:
        x = self._range(node.input[0])
        self.ranges[node.output[0]] = Range(np.ceil(x.limit), np.maximum(x.grid, 1.0))

    def _clip(self, node: onnx.NodeProto) -> None:
        low, high = (float(self.constants[n]) for n in node.input[1:3])
        source, bound = node.input[0], max(abs(low), abs(high))
        if source in self.ranges:
            x = self.ranges[source]
            self.ranges[node.output[0]] = Range(np.minimum(x.limit, bound), x.grid)
        else:  # an input: an integer by the format's rules
            shape = next(v for v in self.graph.input if v.name == source).type.tensor_type.shape
            channels = shape.dim[1].dim_value
            self.ranges[node.output[0]] = Range(np.full(channels, bound), np.ones(channels))

    def _concat(self, node: onnx.NodeProto) -> None:
        parts = [self._range(n) for n in node.input]
        joined = (np.concatenate([p.limit for p in parts]), np.concatenate([p.grid for p in parts]))
        self.ranges[node.output[0]] = Range(*joined)

    def _cast(self, node: onnx.NodeProto) -> None:
        self.constants[node.output[0]] = self.constants[node.input[0]]

    def _shuffle(self, node: onnx.NodeProto) -> None:
        x, block = self._range(node.input[0]), next(a.i for a in node.attribute if a.name == "blocksize")
        limit, grid = (v.reshape(-1, block * block) for v in (x.limit, x.grid))
        self.ranges[node.output[0]] = Range(limit.max(1), grid.min(1))


def _parse(name: str, raw: bytes, operators: set[str]) -> onnx.ModelProto:
    try:
        model = onnx.load_from_string(raw)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf and the checker raise classes of their own
        raise InvalidModel(f"{name}: not an ONNX graph: {error}") from error
    opsets = [(o.domain, o.version) for o in model.opset_import]
    found = {n.op_type for n in model.graph.node}
    if opsets != [("", OPSET)] or model.functions or len(model.graph.node) > MAX_NODES or not found <= operators:
        raise InvalidModel(f"{name}: opset {opsets}, operators {sorted(found - operators)} or size are not allowed")
    subgraphs = any(a.HasField("g") or a.graphs for n in model.graph.node for a in n.attribute)
    if subgraphs or any(t.external_data for t in model.graph.initializer):
        raise InvalidModel(f"{name}: subgraphs and data outside the file are not allowed")
    if sum(t.ByteSize() for t in model.graph.initializer) > MAX_BUNDLE_BYTES:
        raise InvalidModel(f"{name}: its weights are over {MAX_BUNDLE_BYTES} bytes")
    return model


def prove(name: str, raw: bytes) -> list[Layer]:
    """Prove that float32 computes a graph of the prior exactly.

    Raises:
        InvalidModel: If it is not proved.
    """
    try:
        return Prover(_parse(name, raw, EXACT_OPERATORS), name).prove()
    except (KeyError, IndexError, ValueError, StopIteration, TypeError) as error:
        raise InvalidModel(f"{name}: the graph is not of the form that can be proved exact: {error!r}") from error


def vet(bundle: Bundle) -> None:
    """Check everything in a bundle that did not ship, before any of it runs.

    Raises:
        InvalidModel: If anything in it is not allowed.
    """
    arrays: list[Any] = [bundle.tables, bundle.z_offset, bundle.z_table, bundle.level_bias]
    assert arrays
    exact = {"h_s.onnx", *bundle.manifest.step_graphs}
    for name, raw in bundle.members.items():
        if name.endswith(".onnx"):
            prove(name, raw) if name in exact else _parse(name, raw, FLOAT_OPERATORS)

"""Checks of graphs that did not ship: allowed operators only, and the proof that a prior is exact in float32.

The proof walks a graph of the prior and keeps, for every channel of every tensor, the largest magnitude and the grid (a
power of two) that its values lie on. Wherever terms are summed it demands that their magnitudes, in units of the grid,
stay below 2^24: then every partial sum is a number that float32 holds, and the order of summation cannot matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from calotype.bundle import MAX_BUNDLE_BYTES, Bundle, ModelFile
from calotype.errors import InvalidModel
from calotype.work import Budget, Shape, check_work

EXACT_LIMIT = 2.0**24
OPSET = 17
EXACT_OPERATORS = {"Conv", "Mul", "Add", "Floor", "Clip", "Concat", "Cast", "DepthToSpace", "SpaceToDepth"}
FLOAT_OPERATORS = EXACT_OPERATORS | {"Sigmoid", "Gather", "Sign", "Abs", "Log", "Exp", "Reshape", "Pad"}
SMALL_OPERATORS = FLOAT_OPERATORS | {"Gemm", "Relu", "MaxPool", "ConvTranspose"}
"""Of models of small images."""
MAX_NODES = 2000
MAX_CHANNELS, MAX_ALL_CHANNELS = 1 << 17, 1 << 22
"""Of a tensor, and of all tensors of a graph together: what a proof takes memory for."""
SMALLEST_GRID, LARGEST_VALUE = 2.0**-100, 2.0**100
"""Far within float32's normal numbers."""
TILE_WORK, IMAGE_WORK = (1 << 17, 1 << 30), (1 << 22, 1 << 31)
"""Values of a tensor and multiplications of a graph, for 64x64 pixels and for a small image."""
RESULTS = {"features": 512, "mean": 8184, "index": 255}
"""Outputs of the prior's graphs: integers within these limits."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Range:
    """What is known of a tensor: per channel the largest magnitude and the grid."""

    limit: Floats
    grid: Floats

    def __post_init__(self) -> None:
        if not (np.all(self.grid >= SMALLEST_GRID) and np.all(self.limit <= LARGEST_VALUE)):
            raise InvalidModel("a tensor's values leave float32's safe range, or are no numbers")


@dataclass(frozen=True)
class Layer:
    """How near one sum comes to the bound."""

    name: str
    used: float


def _grid_of(values: Floats, axis: int | None = None) -> Floats:
    """The largest power of two of which all values (float32 numbers) are multiples."""
    mantissa, exponent = np.frexp(values)
    integer = np.abs(mantissa * EXACT_LIMIT).astype(np.int64)
    low_bit = np.where(integer == 0, EXACT_LIMIT**2, (integer & -integer).astype(np.float64))
    return np.min(low_bit * 2.0 ** (exponent - 24), axis=axis)


def _constant(tensor: onnx.TensorProto) -> Floats:
    if tensor.data_type not in (TensorProto.FLOAT, TensorProto.INT8):
        raise InvalidModel(f"constant {tensor.name} is neither float32 nor int8")
    values = numpy_helper.to_array(tensor).astype(np.float64)
    if not np.isfinite(values).all():
        raise InvalidModel(f"constant {tensor.name} holds values that are no numbers")
    return values


class Prover:
    """Walks one graph of the prior."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        self.graph, self.name = model.graph, name
        self.constants = {t.name: _constant(t) for t in self.graph.initializer}
        self.inputs = {v.name: v for v in self.graph.input}
        self.ranges: dict[str, Range] = {}
        self.layers: list[Layer] = []
        self.channels = self.values = 0
        self._walk: dict[str, Callable[[onnx.NodeProto], None]] = {
            "Conv": self._conv, "Add": self._add, "Mul": self._mul, "Floor": self._floor,
            "Clip": self._clip, "Concat": self._concat, "Cast": self._cast, "DepthToSpace": self._shuffle,
            "SpaceToDepth": self._unshuffle,
        }  # fmt: skip

    def prove(self) -> list[Layer]:
        """Every sum of the graph with the part of the bound it may use.

        Raises:
            InvalidModel: If a sum may leave the bound, or an operator is used in a way that is not exact.
        """
        self._demand(
            not set(self.inputs) & set(self.constants) and not self.graph.sparse_initializer, "inputs have values"
        )
        for node in self.graph.node:
            self._walk[node.op_type](node)
            self._count(len(self.ranges[node.output[0]].limit) if node.output[0] in self.ranges else 0)
        for output in self.graph.output:
            result, limit = self._range(output.name), RESULTS.get(output.name, -1)
            self._demand(result.grid.min() >= 1 and result.limit.max() <= limit, f"{output.name} is no known result")
        return self.layers

    def _demand(self, holds: bool | np.bool_, otherwise: str) -> None:
        if not holds:
            raise InvalidModel(f"{self.name}: {otherwise}")

    def _limit_channels(self, channels: int, name: str) -> None:
        self._demand(1 <= channels <= MAX_CHANNELS, f"{name} has {channels} channels, not 1 to {MAX_CHANNELS}")

    def _count(self, channels: int) -> None:
        self.channels += channels
        self._demand(self.channels <= MAX_ALL_CHANNELS, f"its tensors have over {MAX_ALL_CHANNELS} channels")

    def _range(self, name: str) -> Range:
        self._demand(name in self.ranges, f"{name} is used before anything limits it")
        return self.ranges[name]

    def _sum(self, node: onnx.NodeProto, limit: Floats, grid: Floats) -> None:
        used = float((limit / grid).max() / EXACT_LIMIT)
        self._demand(0 <= used < 1, f"{node.output[0]} may reach {used:.2f} times the bound of 2^24")
        self.layers.append(Layer(f"{self.name}/{node.output[0]}", used))
        self.ranges[node.output[0]] = Range(limit, grid)

    def _conv(self, node: onnx.NodeProto) -> None:
        x, (w, b) = self._range(node.input[0]), (self.constants[n] for n in node.input[1:3])
        how = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        channels, groups = len(x.limit), how.get("group", 1)
        divides = groups >= 1 and channels % groups == len(w) % groups == 0
        self._demand(divides, f"{node.output[0]}: {groups} groups do not divide it")
        depthwise = groups == channels > 1
        form = (channels, 1, 3, 3) if depthwise else (len(w), channels // groups, 1, 1)
        plain = {"group": groups, "kernel_shape": [*form[2:]], "pads": [int(depthwise)] * 4}
        usual = how == plain if depthwise else not set(how) - {"group"}
        self._demand(w.shape == form and b.shape == (len(w),) and usual, f"{node.output[0]}: not 1x1 or depthwise 3x3")
        flat = w.reshape(groups, len(w) // groups, -1)
        taps, inputs = np.abs(flat), np.repeat(x.limit.reshape(groups, -1), w[0, 0].size, axis=1)
        reach = np.einsum("goi,gi->go", taps, inputs).ravel()
        grid = (_grid_of(flat, axis=2) * x.grid.reshape(groups, -1).min(1, keepdims=True)).ravel()
        self._sum(node, reach + np.abs(b), np.minimum(grid, _grid_of(b[:, None], axis=1)))

    def _add(self, node: onnx.NodeProto) -> None:
        a, b = (self._term(n) for n in node.input)
        self._demand(len(a.limit) == len(b.limit) or 1 in (a.limit.size, b.limit.size), f"{node.output[0]}: shapes")
        self._sum(node, a.limit + b.limit, np.minimum(a.grid, b.grid))

    def _term(self, name: str) -> Range:
        if name not in self.constants:
            return self._range(name)
        value = self.constants[name].reshape(1)
        return Range(np.abs(value), _grid_of(value[:, None], axis=1))

    def _mul(self, node: onnx.NodeProto) -> None:
        left, right = node.input
        if left in self.constants and right in self.constants:
            shapes = (self.constants[name].shape for name in node.input)
            size = prod(np.broadcast_shapes(*shapes))
            self.values += size
            self._demand(
                self.values <= MAX_BUNDLE_BYTES, f"{node.output[0]}: products of over {MAX_BUNDLE_BYTES} values"
            )
            product = self.constants[left] * self.constants[right]
            self._demand(np.array_equal(product.astype(np.float32), product), f"{node.output[0]} is no float32")
            self.constants[node.output[0]] = product
            return
        x, factor = self._range(left), np.abs(self.constants[right]).reshape(-1)
        self._demand(factor.size == 1 and _grid_of(factor) == factor[0], f"{node.output[0]}: factor is no power of 2")
        self.ranges[node.output[0]] = Range(x.limit * factor[0], x.grid * factor[0])

    def _floor(self, node: onnx.NodeProto) -> None:
        x = self._range(node.input[0])
        self.ranges[node.output[0]] = Range(np.ceil(x.limit), np.maximum(x.grid, 1.0))

    def _clip(self, node: onnx.NodeProto) -> None:
        source, low, high = node.input[0], *(float(self.constants[n].reshape(())) for n in node.input[1:3])
        self._demand(low <= high, f"{node.output[0]}: nothing lies between {low} and {high}")
        if source in self.inputs:  # an integer by the format's rules
            tensor = self.inputs[source].type.tensor_type
            channels = tensor.shape.dim[1].dim_value
            self._demand(tensor.elem_type == TensorProto.FLOAT, f"input {source}: not float32")
            self._limit_channels(channels, f"input {source}")
            x = Range(np.full(channels, LARGEST_VALUE), np.ones(channels))
        else:
            x = self._range(source)
        grid = np.minimum(x.grid, _grid_of(np.array([low, high])))
        ends = np.abs(np.clip([-x.limit, x.limit], low, high))  # both: 0 need not lie within low and high
        self.ranges[node.output[0]] = Range(ends.max(0), grid)

    def _concat(self, node: onnx.NodeProto) -> None:
        parts = [self._range(n) for n in node.input]
        self._demand(node.attribute[0].i == 1, f"{node.output[0]}: joins another axis than channels")
        self._limit_channels(sum(len(p.limit) for p in parts), node.output[0])
        joined = (np.concatenate([p.limit for p in parts]), np.concatenate([p.grid for p in parts]))
        self.ranges[node.output[0]] = Range(*joined)

    def _cast(self, node: onnx.NodeProto) -> None:
        self._demand(node.attribute[0].i == TensorProto.FLOAT, f"{node.output[0]}: a cast to another type than float32")
        self.constants[node.output[0]] = self.constants[node.input[0]]

    def _shuffle(self, node: onnx.NodeProto) -> None:
        x, how = self._range(node.input[0]), {a.name: helper.get_attribute_value(a) for a in node.attribute}
        self._demand(how.get("mode") == b"CRD", f"{node.output[0]}: mode is not CRD")
        limit, grid = (v.reshape(-1, how["blocksize"] ** 2) for v in (x.limit, x.grid))
        self.ranges[node.output[0]] = Range(limit.max(1), grid.min(1))

    def _unshuffle(self, node: onnx.NodeProto) -> None:
        x, how = self._range(node.input[0]), {a.name: helper.get_attribute_value(a) for a in node.attribute}
        places = how["blocksize"] ** 2
        self._limit_channels(len(x.limit) * places, node.output[0])
        self.ranges[node.output[0]] = Range(np.tile(x.limit, places), np.tile(x.grid, places))


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
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InvalidModel(f"{name}: the graph is not of the form that can be proved exact: {error!r}") from error


def vet_exact(file: ModelFile, inputs: Mapping[str, Shape]) -> None:
    """Prove all graphs of a model file that has only exact ones, for inputs of these shapes, before any of them runs.

    Raises:
        InvalidModel: If one is not proved.
    """
    for name, raw in file.members.items():
        if name.endswith(".onnx"):
            prove(name, raw)
            check_work(name, _parse(name, raw, EXACT_OPERATORS), Budget(inputs, *IMAGE_WORK))


def vet_float(file: ModelFile, inputs: Mapping[str, Shape]) -> None:
    """Check all graphs of a model file that has none that must be exact, for inputs of these shapes, before any runs.

    Raises:
        InvalidModel: If anything in one is not allowed.
    """
    for name, raw in file.members.items():
        if name.endswith(".onnx"):
            check_work(name, _parse(name, raw, SMALL_OPERATORS), Budget(inputs, *IMAGE_WORK))


def vet(bundle: Bundle) -> None:
    """Check everything in a photo codec's bundle that did not ship, before any of it runs.

    Raises:
        InvalidModel: If anything in it is not allowed.
    """
    bundle.check_arrays()
    manifest = bundle.manifest
    exact = {"h_s.onnx", *manifest.step_graphs}
    writers = {"h_a.onnx", *(head.analysis for head in manifest.heads)} & set(bundle.members)
    free = writers | {manifest.preview, *(head.graph for head in manifest.heads)}
    budget = Budget(_tile_inputs(bundle), *TILE_WORK)
    for name in sorted(exact):
        prove(name, bundle.members[name])
        check_work(name, _parse(name, bundle.members[name], EXACT_OPERATORS), budget)
    for name in sorted(free):
        check_work(name, _parse(name, bundle.members[name], FLOAT_OPERATORS), budget)


def _tile_inputs(bundle: Bundle) -> dict[str, Shape]:
    """All that graphs of a photo codec may be given for 64x64 pixels."""
    m = bundle.manifest
    return {
        "z": (1, m.z_channels, 1, 1),
        "level_bias": (1, m.prior_channels, 1, 1),
        "features": (1, m.prior_channels, 4, 4),
        "known": (1, m.y_channels, 4, 4),
        "y": (1, m.y_channels, 4, 4),
        "x": (1, m.channels, 64, 64),
        "level": (1,),
    }

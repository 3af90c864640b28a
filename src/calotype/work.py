"""How much a graph that did not ship computes and holds, found without running it.

A small file can ask for much: one weight used by a thousand nodes, a stride that makes a hundred pixels of one, padding
without end. So the shapes of all tensors are inferred for inputs of known size, and must be what honest models need.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

import onnx
from onnx import shape_inference

from calotype.errors import InvalidModel

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Budget:
    """What a graph may take for its inputs.

    Attributes:
        inputs: The shape of each input that a graph may have.
        values: Of one tensor that depends on the inputs.
        multiplications: Of a whole graph.
    """

    inputs: Mapping[str, Shape]
    values: int
    multiplications: int


FIXED_VALUES = 1 << 24
"""Of all tensors together that do not depend on the inputs."""


def check_work(name: str, model: onnx.ModelProto, budget: Budget) -> None:
    """Refuse a graph that may compute or hold too much.

    Raises:
        InvalidModel: If a shape cannot be told, or it takes more than the budget.
    """
    shapes = _shapes(name, model, budget.inputs)
    fixed, fixed_values, work = {t.name for t in model.graph.initializer}, 0, 0
    for node in model.graph.node:
        if unknown := [tensor for tensor in (*node.input, *node.output) if tensor and tensor not in shapes]:
            raise InvalidModel(f"{name}: the shape of {unknown[0]} cannot be told")
        size = max(prod(shapes[output]) for output in node.output)
        if fixed.issuperset(node.input):
            fixed.update(node.output)
            fixed_values += size
        elif size > budget.values:
            raise InvalidModel(f"{name}: {node.output[0]} has {size} values; the limit is {budget.values}")
        work += _multiplications(node, shapes)
    if fixed_values > FIXED_VALUES or work > budget.multiplications:
        raise InvalidModel(
            f"{name}: {work} multiplications and {fixed_values} computed weights; the limits are "
            f"{budget.multiplications} and {FIXED_VALUES}"
        )


def _multiplications(node: onnx.NodeProto, shapes: Mapping[str, Shape]) -> int:
    out = shapes[node.output[0]]
    if node.op_type == "MaxPool":
        return prod(out) * prod(next(a.ints for a in node.attribute if a.name == "kernel_shape"))
    if node.op_type not in ("Conv", "ConvTranspose", "Gemm"):
        return 0
    x, weight = (shapes[tensor] for tensor in node.input[:2])
    if node.op_type == "Gemm":
        return out[0] * prod(weight)
    return prod(out if node.op_type == "Conv" else x) * prod(weight[1:])


def _shapes(name: str, model: onnx.ModelProto, inputs: Mapping[str, Shape]) -> dict[str, Shape]:
    """The shape of each tensor whose shape can be told."""
    concrete = onnx.ModelProto()
    concrete.CopyFrom(model)
    for value in concrete.graph.input:
        if value.name not in inputs:
            raise InvalidModel(f"{name}: {value.name} is no input that this graph may have")
        dims = [onnx.TensorShapeProto.Dimension(dim_value=side) for side in inputs[value.name]]
        value.type.tensor_type.shape.CopyFrom(onnx.TensorShapeProto(dim=dims))
    for value in concrete.graph.output:
        value.type.tensor_type.ClearField("shape")
    del concrete.graph.value_info[:]
    try:
        graph = shape_inference.infer_shapes(concrete, strict_mode=True, data_prop=True).graph
    except Exception as error:  # onnx has classes of its own
        raise InvalidModel(f"{name}: the shapes of its tensors do not fit together: {error}") from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        if kind.HasField("shape") and all(dim.HasField("dim_value") for dim in kind.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in kind.shape.dim)
    return shapes

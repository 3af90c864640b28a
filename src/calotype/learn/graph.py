"""Writes ONNX graphs, operator by operator, so that nothing is in them that SPEC.md does not allow."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from calotype.learn.dyadic import ACTIVATION_BITS, ACTIVATION_LIMIT, STREAM_BITS, STREAM_LIMIT, DyadicBlock, DyadicConv
from calotype.learn.transforms import BLOCK_SCALES, MARGIN_PX, PLAIN, Block, Detail, LevelVector, Linear1x1
from calotype.proof import OPSET

IR_VERSION = 8


def numpy_of(tensor: torch.Tensor) -> NDArray[np.float32]:
    """A tensor's values."""
    return tensor.detach().cpu().float().numpy()


class Graph:
    """A graph under construction. Methods take and return names of tensors.

    Constants are named after the layers of `net` that they come from, so that `restore` finds them.
    """

    def __init__(self, name: str, net: nn.Module) -> None:
        self.name = name
        self._layers = {id(layer): path for path, layer in net.named_modules()}
        self._nodes: list[onnx.NodeProto] = []
        self._constants: dict[str, onnx.TensorProto] = {}
        self._inputs: list[onnx.ValueInfoProto] = []
        self._count = 0

    def input(self, name: str, shape: Sequence[int | str], dtype: int = TensorProto.FLOAT) -> str:
        """Declare an input; text stands for a free dimension."""
        self._inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def constant(self, value: NDArray[Any] | float, name: str | None = None) -> str:
        """A stored tensor."""
        tensor = numpy_helper.from_array(np.array(value, np.float32) if isinstance(value, (int, float)) else value)
        tensor.name = name or f"c{len(self._constants)}"
        self._constants[tensor.name] = tensor
        return tensor.name

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add an operator with one output."""
        self._count += 1
        output = f"{kind.lower()}_{self._count}"
        self._nodes.append(helper.make_node(kind, list(inputs), [output], name=output, **attributes))
        return output

    def half(self, value: NDArray[Any], name: str) -> str:
        """A constant stored in float16, cast where it is used."""
        return self.op("Cast", self.constant(value.astype(np.float16), name), to=TensorProto.FLOAT)

    def rename(self, tensor: str, name: str) -> str:
        """Give an output of the graph its name."""
        node = next(n for n in self._nodes if tensor in n.output)
        node.output[0] = name
        return name

    def serialise(self, *outputs: tuple[str, Sequence[int | str]]) -> bytes:
        """The finished graph; outputs are (name, shape)."""
        results = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n, shape in outputs]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, results, list(self._constants.values()))
        opset = [helper.make_opsetid("", OPSET)]
        model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION, producer_name="calotype")
        onnx.checker.check_model(model, full_check=True)
        return model.SerializeToString(deterministic=True)

    # --- float layers -------------------------------------------------------------------------------------------

    def conv(self, x: str, name: str, weight: NDArray[Any], bias: NDArray[Any], **attributes: Any) -> str:
        """A convolution with float16 weights and a float32 bias."""
        stored = self.half(weight, f"{name}.weight"), self.constant(bias.astype(np.float32), f"{name}.bias")
        return self.op("Conv", x, *stored, **attributes)

    def linear(self, x: str, layer: Linear1x1, scales: tuple[float, float] = PLAIN) -> str:
        """A 1x1 convolution, its weight and bias times `scales`."""
        weight, bias = numpy_of(layer.weight) * scales[0], numpy_of(layer.bias) * scales[1]
        return self.conv(x, self._layers[id(layer)], weight[:, :, None, None], bias)

    def strided(self, x: str, layer: Linear1x1, block: int) -> str:
        """A 1x1 after pixel_unshuffle, as the strided convolution that it is."""
        weight, sides = numpy_of(layer.weight).reshape(len(layer.weight), -1, block, block), [block, block]
        return self.conv(x, self._layers[id(layer)], weight, numpy_of(layer.bias), kernel_shape=sides, strides=sides)

    def shuffle(self, x: str, block: int) -> str:
        """pixel_shuffle."""
        return self.op("DepthToSpace", x, blocksize=block, mode="CRD")

    def _swish(self, x: str) -> str:
        return self.op("Mul", x, self.op("Sigmoid", x))

    def block(self, x: str, block: Block) -> str:
        """A residual block."""
        scales = BLOCK_SCALES
        u = self._swish(self.linear(x, block.a, scales["a"]))
        weight, bias = (numpy_of(p) * scale for p, scale in zip(block.b.parameters(), scales["b"], strict=True))
        depthwise = {"group": len(bias), "kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
        u = self.conv(u, self._layers[id(block.b)], weight, bias, **depthwise)
        x = self.op("Add", x, self.linear(u, block.c, scales["c"]))
        u = self._swish(self.linear(x, block.d, scales["d"]))
        return self.op("Add", x, self.linear(u, block.e, scales["e"]))

    def in_blocks(self, x: str, channels: int) -> str:
        """What x is, by a convolution that changes nothing.

        onnxruntime keeps what convolutions give in blocks of channels, and then sums of it, too, until another operator
        wants it plain.
        """
        ones, zeros = np.ones((channels, 1, 1, 1), np.float32), np.zeros(channels, np.float32)
        return self.op("Conv", x, self.constant(ones), self.constant(zeros), group=channels)

    def detail(self, x: str, net: Detail, level: str) -> str:
        """The last layers of a synthesis, at full size."""

        def convolved(x: str, layer: nn.Conv2d) -> str:
            assert layer.bias is not None
            name, weight, bias = self._layers[id(layer)], numpy_of(layer.weight), numpy_of(layer.bias)
            return self.conv(x, name, weight, bias, group=layer.groups)

        pads = self.constant(np.array([0, 0, MARGIN_PX, MARGIN_PX] * 2, np.int64))
        around = self.op("Pad", self.op("Mul", x, self.gain(net.scale_in, level)), pads, mode="edge")
        found = convolved(convolved(self.clip(convolved(around, net.differences), -1, 1), net.around), net.out)
        return self.op("Add", x, self.op("Mul", found, self.gain(net.scale_out, level)))

    def gain(self, log_gain: LevelVector, level: str) -> str:
        """The exponential of a level's vector, (1, n, 1, 1)."""
        nearness = self.op("Gather", self.constant(numpy_of(log_gain.nearness)[:, :, None, None]), level, axis=0)
        knots = numpy_of(log_gain.knots.T)[:, :, None, None].copy()
        weight = self.constant(knots, f"{self._layers[id(log_gain)]}.knots")
        return self.op("Exp", self.op("Conv", nearness, weight, self.constant(np.zeros(len(knots), np.float32))))

    # --- dyadic layers: all tensors are integers ----------------------------------------------------------------

    def clip(self, x: str, low: int, high: int) -> str:
        """Limit to low..high."""
        return self.op("Clip", x, self.constant(float(low)), self.constant(float(high)))

    def dyadic(
        self, x: str, layer: DyadicConv, out_bits: int, half: int | None = None, order: NDArray[np.intp] | None = None
    ) -> str:
        """A dyadic convolution: integers on its input grid -> numbers in units of 2^-out_bits, not yet rounded.

        With `half`, only the first (0) or second (1) half of its outputs. With `order`, these stand in it, and x holds
        four times the layer's inputs: a quarter of the outputs are made from each.
        """
        k, b, s = (numpy_of(t if half is None else t.chunk(2)[half]) for t in layer.integers())
        k, b, s = (k, b, s) if order is None else (k[order], b[order], s[order])
        groups = {} if order is None else {"group": 4}
        name = self._layers[id(layer)] + ("" if half is None else f".{half}")
        scale = 2.0 ** (out_bits - layer.in_bits - s)
        weight = k.reshape(len(k), -1, *((3, 3) if layer.groups > 1 else (1, 1))).astype(np.int8)
        cast = self.op("Cast", self.constant(weight, f"{name}.weight"), to=TensorProto.FLOAT)
        shifts = self.constant(scale.astype(np.float32)[:, None, None, None], f"{name}.scale")
        exact = self.op("Mul", cast, shifts)
        bias = self.constant((b * scale + 0.5).astype(np.float32), f"{name}.bias")
        if layer.groups == 1:
            return self.op("Conv", x, exact, bias, **groups)
        return self.op("Conv", x, exact, bias, group=layer.groups, kernel_shape=[3, 3], pads=[1, 1, 1, 1])

    def floor_clip(self, x: str, low: int, high: int) -> str:
        """Limit and floor (the rounding half stands in the bias); in this order runtimes limit within a convolution."""
        return self.op("Floor", self.clip(x, low, high))

    def stream(self, x: str) -> str:
        """Round to the residual stream."""
        return self.floor_clip(x, -STREAM_LIMIT, STREAM_LIMIT - 1)

    def dyadic_block(self, r: str, block: DyadicBlock) -> str:
        """A residual block of the prior."""

        def rectified(x: str, layer: DyadicConv) -> str:
            return self.floor_clip(self.dyadic(x, layer, ACTIVATION_BITS), 0, ACTIVATION_LIMIT)

        inner = rectified(rectified(r, block.a), block.b)
        r = self.stream(self.op("Add", r, self.dyadic(inner, block.c, STREAM_BITS)))
        return self.stream(self.op("Add", r, self.dyadic(rectified(r, block.d), block.e, STREAM_BITS)))

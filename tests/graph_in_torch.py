"""Runs the ONNX graphs of a bundle in PyTorch, in any float type: a runtime of its own to compare with."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

from calotype.runtime import Runtime


def _operator(node: onnx.NodeProto, x: list[torch.Tensor], how: dict[str, Any]) -> torch.Tensor:
    kind = node.op_type
    if kind == "Conv":
        padding, stride = how.get("pads", [0])[0], how.get("strides", [1])[0]
        return F.conv2d(x[0], x[1], x[2], stride=stride, padding=padding, groups=how.get("group", 1))
    if kind == "DepthToSpace":
        return F.pixel_shuffle(x[0], how["blocksize"])
    if kind == "SpaceToDepth":
        block, places = how["blocksize"], how["blocksize"] ** 2  # channels innermost, where pixel_unshuffle has places
        return F.pixel_unshuffle(x[0], block).unflatten(1, (-1, places)).transpose(1, 2).flatten(1, 2)
    if kind == "Concat":
        return torch.cat(x, how["axis"])
    if kind == "Gather":
        return x[0][x[1]]
    simple = {"Mul": torch.mul, "Add": torch.add, "Floor": torch.floor, "Clip": torch.clamp, "Sigmoid": torch.sigmoid,
              "Abs": torch.abs, "Sign": torch.sign, "Log": torch.log}  # fmt: skip
    return x[0] if kind == "Cast" else simple[kind](*x)


def run_graph(raw: bytes, inputs: dict[str, Any], dtype: torch.dtype = torch.float32) -> list[np.ndarray]:
    graph = onnx.load_from_string(raw).graph
    values = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
    values |= {name: torch.as_tensor(value) for name, value in inputs.items()}
    values = {k: v.to(dtype) if v.dtype != torch.int64 else v for k, v in values.items()}
    for node in graph.node:
        how = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
        values[node.output[0]] = _operator(node, [values[n] for n in node.input], how)
    return [values[o.name].numpy().astype(np.float32) for o in graph.output]


class TorchRuntime(Runtime):
    def run(self, graph: str, **inputs: Any) -> list[np.ndarray]:
        with torch.no_grad():
            return run_graph(self.bundle.members[graph], inputs)


@cache
def _compiled(graph: bytes) -> Any:
    import openvino as ov

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 2}
    return ov.compile_model(ov.Core().read_model(graph, b""), "CPU", settings)


def _run_by_openvino(graph: bytes, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
    result = _compiled(graph)(inputs)
    return [result[i] for i in range(len(result))]


@cache
def _apart() -> ProcessPoolExecutor:
    """A process of its own: beside OpenVINO's threads, a child after forked workers crashes its parent."""
    return ProcessPoolExecutor(1, multiprocessing.get_context("spawn"))


class OpenVinoRuntime(Runtime):
    """OpenVINO, held to float32."""

    def run(self, graph: str, **inputs: Any) -> list[np.ndarray]:
        return _apart().submit(_run_by_openvino, self.bundle.members[graph], inputs).result()

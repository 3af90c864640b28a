"""Bundle -> the differentiable codec that it was exported from.

The graphs name their constants after the layers they come from (`graph.Graph`). Weights come back as they are stored:
those of the prior exactly, without what an export left out (`idle.py`), those of the transforms in float16.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from calotype.bundle import Bundle
from calotype.errors import InvalidModel
from calotype.learn.config import Architecture
from calotype.learn.dyadic import PRODUCT_LIMIT, STREAM_BITS, DyadicBlock, DyadicConv
from calotype.learn.model import Codec
from calotype.learn.prior import INDEX_BITS, MEAN_BITS, SIGMA_COUNT, SIGMA_MIN, log_sigma_step
from calotype.learn.transforms import BLOCK_SCALES, PLAIN, Block, LevelVector
from calotype.steps import channels_by_place

Constants = dict[str, NDArray[Any]]

INDEX_BITS_OF = {SIGMA_COUNT: INDEX_BITS, 64: 3}
"""What graphs give table indices in, by the number of tables: until 0.12.0 half as many for the same scales."""


def codec_of(bundle: Bundle, head: str | None = None) -> Codec:
    """The codec of a bundle, ready to be used or trained on.

    Args:
        bundle: The model.
        head: Whose transforms it gets; those of the first head, if the bundle has none of that name.

    Raises:
        InvalidModel: If the bundle lacks the analysis, or was not written by `calotype.learn.export`.
    """
    try:
        codec = Codec(architecture_of(bundle))
        for graph, net in _networks(codec, bundle, head).items():
            _restore(net, constants_of(bundle.members[graph], INDEX_BITS_OF[len(bundle.tables.tables)]))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InvalidModel(
            f"{bundle.path}: weights cannot be taken from the graphs ({error!r}): only a bundle that "
            "calotype.learn.export wrote, with g_a.onnx and h_a.onnx inside, can be refined with or trained on"
        ) from error
    _restore_levels(codec, bundle)
    return codec.eval()


def architecture_of(bundle: Bundle) -> Architecture:
    """What a bundle's card says; those of before there were details do not speak of them."""
    return Architecture(**{"detail": 0, **bundle.manifest.card["architecture"]})


def _networks(codec: Codec, bundle: Bundle, name: str | None) -> dict[str, nn.Module]:
    heads = bundle.manifest.heads
    head = next((head for head in heads if head.name == name), heads[0])
    transforms = {head.analysis: codec.g_a, "h_a.onnx": codec.h_a, head.graph: codec.g_s}
    return {**transforms, "h_s.onnx": codec.h_s, **dict(zip(bundle.manifest.step_graphs, codec.steps, strict=True))}


def constants_of(raw: bytes, index_bits: int = INDEX_BITS) -> Constants:
    """The constants of a graph by name; the two halves of a step's head as one, with all channels in order.

    What each output of the head is in units of comes as `head.bits`.
    """
    graph = onnx.load_from_string(raw).graph
    stored = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    by_place = any(node.op_type == "SpaceToDepth" for node in graph.node)
    for kind in ("weight", "scale", "bias"):
        if f"head.0.{kind}" in stored:
            halves = [stored[f"head.{half}.{kind}"] for half in (0, 1)]
            if by_place:
                order = channels_by_place(int(graph.name.removeprefix("step_")), len(halves[0]))
                halves = [half[np.argsort(order)] for half in halves]
            stored[f"head.{kind}"] = np.concatenate(halves)
    if "head.0.bias" in stored:
        stored["head.bits"] = np.repeat([MEAN_BITS, index_bits], len(stored["head.bias"]) // 2)
    return stored


@torch.no_grad()
def _restore(net: nn.Module, stored: Constants) -> None:
    """Set every layer of a network from its graph's constants."""
    scales = {id(getattr(b, n)): s for b in net.modules() if isinstance(b, Block) for n, s in BLOCK_SCALES.items()}
    in_blocks = {id(layer) for b in net.modules() if isinstance(b, DyadicBlock) for layer in b.children()}
    for name, layer in net.named_modules():
        if isinstance(layer, DyadicConv):
            _restore_dyadic(layer, stored, name, may_lack_units=id(layer) in in_blocks)
        elif isinstance(layer, LevelVector):
            if f"{name}.knots" in stored:
                _set(layer.knots, stored[f"{name}.knots"][:, :, 0, 0].T.copy())
        elif dict(layer.named_parameters(recurse=False)):
            for kind, scale in zip(("weight", "bias"), scales.get(id(layer), PLAIN), strict=True):
                _set(getattr(layer, kind), stored[f"{name}.{kind}"].astype(np.float32) / scale)


def _set(parameter: Tensor, value: NDArray[Any]) -> None:
    parameter.copy_(torch.from_numpy(value.reshape(parameter.shape)))


def _with_idle_units(value: NDArray[Any], shape: Sequence[int]) -> NDArray[Any]:
    """Weights of all units: those that an export left out give nothing."""
    whole = np.zeros(shape)
    whole[tuple(slice(size) for size in value.shape)] = value
    return whole


def _restore_dyadic(layer: DyadicConv, stored: Constants, name: str, *, may_lack_units: bool) -> None:
    """Weights and bias that the layer turns into the stored integers."""
    k, scale, bias = (stored[f"{name}.{kind}"].astype(np.float64) for kind in ("weight", "scale", "bias"))
    to_units = 2.0 ** (layer.in_bits - stored.get(f"{name}.bits", np.full(len(k), STREAM_BITS)))
    step, k = scale.reshape(-1, 1) * to_units[:, None], k.reshape(len(k), -1)
    # Rounded weights may sum to a little more than those they were rounded from, and then would get a coarser step.
    excess = np.abs(k).sum(1, keepdims=True) - (1 - 1e-5) * PRODUCT_LIMIT / (layer.in_limit * step)
    shrink = (excess / np.maximum(1, (k != 0).sum(1, keepdims=True))).clip(0, 0.49)
    weight, bias = (k - np.sign(k) * shrink) * step, (bias - 0.5) * to_units * 2.0**-layer.in_bits
    if may_lack_units:
        weight = _with_idle_units(weight, layer.weight.flatten(1).shape)
        bias = _with_idle_units(bias, layer.bias.shape)
    _set(layer.weight, weight)
    _set(layer.bias, bias)


@torch.no_grad()
def _restore_levels(codec: Codec, bundle: Bundle) -> None:
    """Set what is stored as integers for each level: the bias of h_s, and the prior of z."""
    _restore_knots(codec.h_s.level, bundle.level_bias * 2.0**-STREAM_BITS)
    _restore_knots(codec.z_prior.mean, bundle.z_offset)
    _restore_knots(
        codec.z_prior.log_sigma, bundle.z_table * log_sigma_step(len(bundle.tables.tables)) + math.log(SIGMA_MIN)
    )


def _restore_knots(vector: LevelVector, table: NDArray[Any]) -> None:
    """Knots of a table (256, n, ...), by least squares, for it was rounded."""
    nearness = vector.nearness.numpy().astype(np.float64)
    _set(vector.knots, np.linalg.pinv(nearness) @ table.reshape(len(nearness), -1))

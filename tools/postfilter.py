"""Makes what src/calotype/postfilter.py reads: `python tools/postfilter.py PICTURES... --out src/calotype`.

The middle of each picture is coded at four levels. Of the error that is left, combinations of the first 4, 8, 16, 32,
64, 96 and 128 modes shall take as much as they can, on average in dB: found by gradient descent from the principal
components of the pictures' own filters. Needs calotype[learn].
"""

from __future__ import annotations

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from onnx import NodeProto, TensorProto, numpy_helper
from onnx.helper import make_graph, make_model, make_node, make_opsetid, make_tensor_value_info
from PIL import Image
from torch import Tensor

from calotype import container, library, pixels, postfilter
from calotype.codec import DEFAULT_EFFORT, runtime_of
from calotype.decoder import tile_latents
from calotype.encoder import PictureCoder
from calotype.learn.data import find_pictures
from calotype.postfilter import Sample
from calotype.tiling import Box

LEVELS = (16, 80, 144, 208)
SIDE_PX = 512
STEPS = 200
RATE = 0.05
SHRINKAGE = 1e-4
STEP = 1 / 128
"""A weight of 1 takes this share of a usual picture's root mean squared error."""


def moments(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """A picture's moments at each level, over its squared error."""
    torch.set_num_threads(1)
    image = Image.open(path).convert("RGB")
    width, height = (min(side // 64 * 64, SIDE_PX) for side in image.size)
    left, top = (image.width - width) // 2, (image.height - height) // 2
    picture = pixels.from_image(image.crop((left, top, left + width, top + height)), strip=True)
    runtime, box = runtime_of(library.find(None)), Box(0, 0, height, width)
    coder, x, out = PictureCoder.of(picture, runtime, DEFAULT_EFFORT), pixels.to_unit(picture.samples), []
    for level in LEVELS:
        whole = container.unpack(coder.at_level(level))
        assert whole.header.coding is not None
        x_hat = runtime.synthesise(tile_latents(whole, runtime, whole.header.coding)[0].y_hat, level).clip(-0.5, 0.5)
        error = float(np.square(x - x_hat, dtype=np.float64).sum())
        sample = Sample(x, x_hat, box)
        out.append(tuple(m / error for m in postfilter.moments(runtime.products, [sample], height * width)))
    return out


def left_db(modes: Tensor, products: Tensor, cross: Tensor) -> list[Tensor]:
    """The mean over pictures of the error that the first 4, 8, ... modes (k, c, i) leave."""
    some = torch.einsum("pij,kcj->pkci", products, modes)
    quadratic = some.flatten(2) @ modes.flatten(1).mT
    linear = cross.flatten(1) @ modes.flatten(1).mT
    quadratic = quadratic + 1e-5 * quadratic.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(len(modes))
    left = []
    for count in postfilter.NESTED:
        weights = torch.linalg.solve(quadratic[:, :count, :count], linear[:, :count, None])[..., 0]
        left.append(10 * (1 - (weights * linear[:, :count]).sum(1)).clamp_min(1e-3).log10().mean())
    return left


def principal(products: Tensor, cross: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Principal components (k, c, i) of the pictures' own filters, and the coordinates that they are such in."""
    own = torch.linalg.solve(products + SHRINKAGE * torch.eye(products.shape[1]).double(), cross.mT).mT
    root = torch.linalg.cholesky(products.mean(0) + SHRINKAGE * torch.eye(products.shape[1]).double())
    return torch.linalg.svd((own @ root).flatten(1), full_matrices=False).Vh[:count].unflatten(1, cross.shape[1:]), root


def sought(products: Tensor, cross: Tensor) -> Tensor:
    """The modes, each scaled so that it has an effect of 1 on a usual picture."""
    scale = products.mean(0).diagonal().rsqrt()
    products, cross = products * scale * scale[:, None], cross * scale
    start, root = (part.float() for part in principal(products, cross, max(postfilter.NESTED)))
    products, cross, back = products.float(), cross.float(), torch.linalg.inv(root)
    free = start.clone().requires_grad_()
    optimiser = torch.optim.Adam([free], lr=float(start.std()) * RATE)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1, 0, STEPS)
    for step in range(STEPS):
        losses = left_db(free @ back, products, cross)
        optimiser.zero_grad()
        torch.stack(losses).sum().backward()
        optimiser.step()
        schedule.step()
        if step % 100 == 0 or step == STEPS - 1:
            print(step, *(f"{float(loss.detach()):.3f} dB" for loss in losses), flush=True)
    modes = (free @ back).detach()
    effect = torch.einsum("kci,pij,kcj->k", modes, products, modes) / len(products)
    return modes * scale / effect.sqrt()[:, None, None]


def pack(modes: np.ndarray) -> bytes:
    """Each mode as the power of two that its numbers are over, and these, as signed bytes."""
    shift = np.floor(np.log2(127.5 / np.abs(modes).max(axis=(1, 2)))).astype(np.int8)
    numbers = np.rint(np.ldexp(modes.reshape(len(modes), -1), shift[:, None].astype(np.int32)))
    return np.concatenate([shift[:, None], numbers.clip(-127, 127)], axis=1).astype(np.int8).tobytes()


def mean_of_nine(plane: str, out: str) -> list[NodeProto]:
    """Means over 3x3 of a plane, which goes on beyond its edges as it ends."""
    pad = make_node("Pad", [plane, "one"], [f"{plane}_around"], mode="edge")
    return [pad, make_node("AveragePool", [f"{plane}_around"], [out], kernel_shape=[3, 3])]


def graph() -> bytes:
    """What postfilter.GRAPH_FILE computes, as an ONNX model."""
    count, side = postfilter.CHANNELS, 2 * postfilter.RADIUS_PX + 1
    nodes = [
        make_node("Pad", ["x", "two"], ["around"], mode="edge"),
        make_node("Conv", ["around", "kernel"], ["filtered"]),
        make_node("Split", ["filtered"], ["plain", "for_busy", "for_light"], axis=1),
        make_node("ReduceMean", ["x"], ["light"], axes=[1]),
        *mean_of_nine("light", "smooth"),
        make_node("Sub", ["light", "smooth"], ["detail"]),
        make_node("Abs", ["detail"], ["size"]),
        *mean_of_nine("size", "busy"),
        make_node("Add", ["busy", "half"], ["most"]),
        make_node("Div", ["busy", "most"], ["share"]),
        make_node("Mul", ["for_busy", "share"], ["by_busy"]),
        make_node("Mul", ["for_light", "light"], ["by_light"]),
        make_node("Sum", ["x", "plain", "by_busy", "by_light"], ["x_filtered"]),
    ]
    inputs = [
        make_tensor_value_info("x", TensorProto.FLOAT, [1, count, None, None]),
        make_tensor_value_info("kernel", TensorProto.FLOAT, [3 * count, count, side, side]),
    ]
    constants = {
        "one": np.array([0, 0, 1, 1] * 2),
        "two": np.array([0, 0, 2, 2] * 2),
        "half": np.float32(postfilter.BUSY),
    }
    outputs = [make_tensor_value_info("x_filtered", TensorProto.FLOAT, [1, count, None, None])]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    body = make_graph(nodes, "postfilter", inputs, outputs, tensors)
    return make_model(body, opset_imports=[make_opsetid("", 17)], ir_version=8).SerializeToString()


def products() -> bytes:
    """What postfilter.PRODUCTS_FILE computes, as an ONNX model."""
    rows = [make_tensor_value_info(name, TensorProto.FLOAT, [f"of_{name}", "n"]) for name in ("a", "b")]
    outputs = [make_tensor_value_info("products", TensorProto.FLOAT, ["of_a", "of_b"])]
    body = make_graph([make_node("Gemm", ["a", "b"], ["products"], transB=1)], "products", rows, outputs)
    return make_model(body, opset_imports=[make_opsetid("", 17)], ir_version=8).SerializeToString()


def main() -> None:
    """Read the command line, measure, seek, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pictures", nargs="+", help="folders, patterns and pictures")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--processes", type=int, default=2, help="pictures at a time (%(default)s)")
    args = parser.parse_args()
    with ProcessPoolExecutor(args.processes, get_context("spawn")) as processes:
        each = [m for ms in processes.map(moments, find_pictures(args.pictures)) for m in ms]
    products, cross = (torch.from_numpy(np.stack(part)) for part in zip(*each, strict=True))
    (args.out / postfilter.GRAPH_FILE).write_bytes(graph())
    (args.out / postfilter.PRODUCTS_FILE).write_bytes(products())
    (args.out / postfilter.MODES_FILE).write_bytes(pack(sought(products, cross).numpy() * STEP))


if __name__ == "__main__":
    main()

"""Makes the sound files of the corpus anew: `python fuzz/make_corpus.py`. Their models are tiny, of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import calotype
from calotype import bundle, library
from calotype.archive import ArchiveWriter
from calotype.bundle import ModelFile
from calotype.learn.config import Architecture
from calotype.learn.export import members, table_members
from calotype.learn.model import Codec
from calotype.small import small_model

CORPUS = Path(__file__).parent / "corpus"
CARD = {"version": "1", "status": "preview"}
SMALL = Architecture(y_channels=8, z_channels=4, width=8, blocks=1, prior_width=8, context_blocks=1)


def _table(radius: int) -> np.ndarray:
    """Frequencies, the middle the likeliest."""
    q = np.full(2 * radius + 2, 1 << 12, np.uint32)
    q[radius] += (1 << 24) - q.sum()
    return q


def photo_model() -> dict[str, bytes]:
    """A codec for photographs with 64 tables of a few symbols, some of them quiet."""
    torch.manual_seed(0)
    codec = Codec(SMALL)
    for p in codec.parameters():
        p.data += 0.05 * torch.randn_like(p)
    tables = [_table(1 + i % 4) for i in range(64)]
    return members(codec.eval(), CARD | {"name": "tiny"}, tables)[0] | table_members(
        tables, [i % 8 == 0 for i in range(64)]
    )


def _graph(nodes: list[Any], inputs: dict[str, list[Any]], outputs: dict[str, int], **constants: np.ndarray) -> bytes:
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()],
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, opset_imports=opset, ir_version=8).SerializeToString()


def _exact_graph(inputs: dict[str, list[int]], channels: int) -> bytes:
    """From the first input to a mean within 0..3 and an index of 0 or 1, both of so many channels."""
    source, width = next((name, shape[1]) for name, shape in inputs.items())
    weight = np.random.default_rng(0).integers(-2, 3, (channels, width, 1, 1)) / 64
    nodes = [
        helper.make_node("Clip", [source, "low", "high"], ["a"]),
        helper.make_node("Conv", ["a", "w", "b"], ["c"]),
        helper.make_node("Floor", ["c"], ["f"]),
        helper.make_node("Clip", ["f", "zero", "three"], ["mean"]),
        helper.make_node("Clip", ["f", "zero", "one"], ["index"]),
    ]
    ends = {"low": -256, "high": 255, "zero": 0, "one": 1, "three": 3}
    return _graph(nodes, inputs, {"mean": 4, "index": 4}, w=weight, b=np.ones(channels), **ends)


def _manifest(**card: object) -> bytes:
    return json.dumps(CARD | {"format": 1} | card).encode()


def bits_back_model() -> dict[str, bytes]:
    """One layer of three latents for grey images of 4x4."""
    x, z = [1, 16, 1, 1], [1, 3, 1, 1]
    graphs = {"likelihood.onnx": _exact_graph({"z_0": z}, 16), "posterior_0.onnx": _exact_graph({"x": x}, 3)}
    tables = {"scales.u32": (2, 512), "pixels.u32": (8, 256)}
    arrays = {name: np.full(shape, (1 << 24) // shape[1], "<u4").tobytes() for name, shape in tables.items()}
    card = _manifest(
        name="back", kind="bits-back", image=[4, 4, 1], patch=[4, 4], latents=[[3, 1, 1]], prior_scale=1, shapes=2,
        decoding=sorted([*graphs, *arrays]),
    )  # fmt: skip
    return {**graphs, **arrays, "manifest.json": card}


def textbook_model() -> dict[str, bytes]:
    """Two latents for grey images of 4x4."""
    weight = np.random.default_rng(0).normal(0, 0.1, (16, 2))
    shapes = {"to_d": np.array([-1, 16], np.int64), "to_x": np.array([-1, 1, 4, 4], np.int64)}

    def graph(source: str, target: str, *nodes: Any) -> bytes:
        model = onnx.load_from_string(
            _graph(list(nodes), {source: ["n", *sizes[source]]}, {target: 1 + len(sizes[target])}, w=weight, b=half)
        )
        model.graph.initializer.extend(numpy_helper.from_array(v, k) for k, v in shapes.items())
        return model.SerializeToString()

    sizes, half = {"x": [1, 4, 4], "y": [2]}, np.full(16, 0.5)
    node = helper.make_node
    decoder = graph("y", "x", node("Gemm", ["y", "w", "b"], ["h"], transB=1), node("Reshape", ["h", "to_x"], ["x"]))
    encoder = graph("x", "y", node("Reshape", ["x", "to_d"], ["h"]), node("Gemm", ["h", "w"], ["y"]))
    tables = [_table(radius) for radius in (5, 3)]
    arrays = {"tables.u32": np.concatenate(tables).astype("<u4").tobytes(), "radii.u16": b"\5\0\3\0"}
    card = _manifest(
        name="book", kind="textbook", image=[4, 4, 1], latents=2, decoding=["decoder.onnx", "radii.u16", "tables.u32"]
    )
    return {"decoder.onnx": decoder, "encoder.onnx": encoder, **arrays, "manifest.json": card}


def pictures(tiny: ModelFile) -> dict[str, bytes]:
    """Files of every form: learned and lossless, one tile and several, with alpha, metadata, 16 bits."""
    rng = np.random.default_rng(1)
    smooth = Image.fromarray(rng.integers(0, 256, (3, 4, 3), np.uint8)).resize((40, 30), Image.Resampling.BICUBIC)
    marked = smooth.convert("RGBA")
    marked.info |= {"xmp": b"<x:xmpmeta/>", "exif": Image.Exif().tobytes()}
    deep = rng.integers(0, 1 << 16, (5, 7), np.uint16)
    wide = smooth.resize((1030, 3))
    return {
        "learned": calotype.encode(smooth, model=tiny, quality=30),
        "alpha": calotype.encode(marked, model=tiny, quality=90),
        "tiles": calotype.encode(wide, model=tiny, quality=50),
        "filtered": calotype.encode(smooth, model=tiny, quality=95, effort=3),
        "lossless": calotype.encode(marked.crop((0, 0, 9, 5)), lossless=True),
        "deep": calotype.encode(deep, lossless=True),
    }


def archive(path: Path, files: dict[str, bytes], models: list[ModelFile]) -> None:
    """Pictures, chunks of small images with names and without, and their models."""
    images = np.random.default_rng(2).integers(0, 256, (3, 4, 4, 1), np.uint8)
    with ArchiveWriter(path) as writer:
        for model in models[1:]:
            writer.add_model(model)
        for name, data in files.items():
            writer.add_picture(f"a/{name}", data)
        for model in models[1:]:
            writer.add_images(small_model(model), images, [f"{model.name}/{i}" for i in range(3)])
            writer.add_images(small_model(model), images)


def main() -> None:
    """Write them all."""
    CORPUS.mkdir(exist_ok=True)
    made = {"tiny": photo_model(), "back": bits_back_model(), "book": textbook_model()}
    for name, content in made.items():
        bundle.write(CORPUS / f"{name}.calomodel", content)
    models = [library.open_path(CORPUS / f"{name}.calomodel") for name in made]
    files = pictures(models[0])
    for name, data in files.items():
        (CORPUS / f"{name}.calo").write_bytes(data)
    (CORPUS / "all.caloset").unlink(missing_ok=True)
    archive(CORPUS / "all.caloset", files, models)


if __name__ == "__main__":
    main()

"""The latents that come out of a file are the same whatever computes the prior."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from calotype import container
from calotype.bundle import Bundle
from calotype.coding import Decoder
from calotype.decoder import tile_latents
from calotype.errors import InexactRuntime
from calotype.prior import CHECKSUM_BYTES
from calotype.runtime import Runtime

sys.path.insert(0, str(Path(__file__).parent))

from golden.make import FOLDER, digest
from graph_in_torch import OpenVinoRuntime, TorchRuntime, run_graph

GOLDEN: dict[str, str] = json.loads((FOLDER / "latents.json").read_text())
RUNTIMES = {
    "onnxruntime, 1 thread": lambda bundle: Runtime(bundle, threads=1),
    "onnxruntime, 2 threads": lambda bundle: Runtime(bundle, threads=2),
    "onnxruntime, graphs as they are": lambda bundle: Runtime(bundle, threads=2, optimise=False),
    "PyTorch": TorchRuntime,
    "OpenVINO f32": OpenVinoRuntime,
}


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("name", GOLDEN)
def test_golden_latents(photo_model: Bundle, name: str, runtime: str) -> None:
    whole = container.unpack((FOLDER / f"{name}.calo").read_bytes())
    assert whole.header.coding is not None
    assert digest(tile_latents(whole, RUNTIMES[runtime](photo_model), whole.header.coding)) == GOLDEN[name]


def test_some_golden_tiles_skip_quiet_tables_and_some_do_not(photo_model: Bundle) -> None:
    tiles = [tile for name in GOLDEN for tile in container.unpack((FOLDER / f"{name}.calo").read_bytes()).tiles]
    assert {Decoder(photo_model.tables, tile[CHECKSUM_BYTES:]).skips for tile in tiles} == {True, False}


def _full_range_inputs(bundle: Bundle, graph: str, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Integers over all that a graph may ever be given, a third of them at the very ends."""

    def draw(limit: int, *shape: int) -> np.ndarray:
        values = rng.integers(-limit, limit + 1, (1, *shape))
        ends = rng.random(values.shape) < 1 / 3
        return np.where(ends, np.sign(values) * limit, values).astype(np.float32)

    m = bundle.manifest
    if graph == "h_s.onnx":
        return {"z": draw(127, m.z_channels, 3, 5), "level_bias": draw(512, m.prior_channels, 1, 1)}
    known = {"known": draw(8184 + 8 * 32767, m.y_channels, 12, 20)} if graph != "step_0.onnx" else {}
    return {"features": draw(512, m.prior_channels, 12, 20), **known}


@pytest.mark.parametrize("graph", ["h_s.onnx", "step_0.onnx", "step_1.onnx", "step_3.onnx"])
@pytest.mark.parametrize("seed", range(3))
def test_full_range_equals_float64(photo_model: Bundle, graph: str, seed: int) -> None:
    inputs = _full_range_inputs(photo_model, graph, np.random.default_rng(seed))
    exact = run_graph(photo_model.members[graph], inputs, torch.float64)
    for make in RUNTIMES.values():
        for result, reference in zip(make(photo_model).run(graph, **inputs), exact, strict=True):
            np.testing.assert_array_equal(result, reference)


class SlightlyWrong(Runtime):
    """A runtime whose means are off by one unit in one place."""

    def step(self, t, features, y8):
        mean, index = super().step(t, features, y8)
        mean[3] += 1
        return mean, index


def test_an_inexact_runtime_is_told_apart_from_damage(photo_model: Bundle, small_file: bytes) -> None:
    whole = container.unpack(small_file)
    assert whole.header.coding is not None
    with pytest.raises(InexactRuntime):
        tile_latents(whole, SlightlyWrong(photo_model), whole.header.coding)

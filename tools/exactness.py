"""The exactness matrix: the golden files under every runtime at hand, all latents compared.

`python tools/exactness.py` needs the development's environment; `--only onnxruntime` needs what calotype itself
needs, and is what `nox -s exactness` runs with the oldest and newest versions.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import onnxruntime as ort

from calotype import container, library
from calotype.bundle import Bundle
from calotype.decoder import tile_latents
from calotype.prior import Latents
from calotype.runtime import Runtime

TESTS = Path(__file__).parent.parent / "tests"
sys.path.insert(0, str(TESTS))
LEVELS = ("DISABLE_ALL", "ENABLE_BASIC", "ENABLE_EXTENDED", "ENABLE_ALL")

Decoder = Callable[[bytes], list[Latents]]


class Session(Runtime):
    """onnxruntime with everything as given."""

    def __init__(self, bundle: Bundle, level: str, provider: str, threads: int) -> None:
        super().__init__(bundle, threads)
        self._level, self._provider = level, provider
        self._made: dict[str, ort.InferenceSession] = {}

    def run(self, graph: str, **inputs: np.ndarray) -> list[np.ndarray]:
        """Run one graph."""
        if graph not in self._made:
            options = ort.SessionOptions()
            options.intra_op_num_threads = self._threads or 1
            options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, f"ORT_{self._level}")
            self._made[graph] = ort.InferenceSession(self.bundle.members[graph], options, providers=[self._provider])
        return self._made[graph].run(None, inputs)


def _by(runtime: Runtime) -> Decoder:
    def decode(data: bytes) -> list[Latents]:
        whole = container.unpack(data)
        assert whole.header.coding is not None
        return tile_latents(whole, runtime, whole.header.coding)

    return decode


def _sessions(bundle: Bundle) -> dict[str, Decoder]:
    usual = {f"onnxruntime, {n} threads": Session(bundle, "ENABLE_ALL", "CPUExecutionProvider", n) for n in (1, 2, 4)}
    levels = {f"onnxruntime, {level}": Session(bundle, level, "CPUExecutionProvider", 1) for level in LEVELS[:-1]}
    providers = set(ort.get_available_providers()) - {"CPUExecutionProvider", "AzureExecutionProvider"}
    others = {f"onnxruntime, {name}": Session(bundle, "ENABLE_ALL", name, 1) for name in sorted(providers)}
    return {name: _by(runtime) for name, runtime in {**usual, **levels, **others}.items()}


def _others(bundle: Bundle) -> dict[str, Decoder]:
    import reference_decoder
    from graph_in_torch import OpenVinoRuntime, TorchRuntime

    model = reference_decoder.Model(bundle.path)

    def by_reference(data: bytes) -> list[Latents]:
        pairs = reference_decoder.decode(data, model)
        return [Latents(z.astype(np.int16), y8.astype(np.int32)) for z, y8 in pairs]

    return {
        "PyTorch": _by(TorchRuntime(bundle)),
        "OpenVINO, float32": _by(OpenVinoRuntime(bundle)),
        "int64, from SPEC.md alone": by_reference,
    }


def _version(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"no {name}"


def digest(tiles: list[Latents]) -> str:
    """As tests/golden/make.py writes it."""
    import hashlib

    return hashlib.sha256(
        b"".join(t.z.astype("<i2").tobytes() + t.y8.astype("<i4").tobytes() for t in tiles)
    ).hexdigest()


def main() -> None:
    """Print a table; the exit status is 1 if any latent differs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=["onnxruntime"])
    bundle, golden = library.find("photo"), json.loads((TESTS / "golden/latents.json").read_text())
    decoders = _sessions(bundle)
    if parser.parse_args().only is None:
        decoders |= _others(bundle)
    versions = ", ".join(map(_version, ("numpy", "onnxruntime", "constriction", "Pillow")))
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}\n")
    print("| decoder | files | latents | equal |\n|---|---|---|---|")
    exact = True
    for name, decode in decoders.items():
        decoded = {file: decode((TESTS / f"golden/{file}.calo").read_bytes()) for file in golden}
        equal = {file: digest(tiles) for file, tiles in decoded.items()} == golden
        count = sum(t.z.size + t.y8.size for tiles in decoded.values() for t in tiles)
        print(f"| {name} | {len(decoded)} | {count} | {'all' if equal else 'NO'} |", flush=True)
        exact &= equal
    sys.exit(not exact)


if __name__ == "__main__":
    main()

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

import calotype
from calotype.cli import COMMANDS, ELSEWHERE

HEAVY = ["torch", "scipy", "matplotlib", "onnx", "skimage", "openvino"]


def _loaded_after(code: str, modules: Sequence[str] = HEAVY) -> set[str]:
    code += f"\nimport sys; print(*[m for m in {modules} if m in sys.modules])"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


MODULES = ["calotype", "calotype.pillow", *sorted({f"calotype.cli.{ELSEWHERE.get(c, c)}" for c in COMMANDS})]


@pytest.mark.parametrize("module", MODULES)
def test_imports_stay_light(module: str) -> None:
    assert _loaded_after(f"import {module}") == set()


def test_coding_needs_no_torch() -> None:
    code = "import calotype, numpy as np; calotype.decode(calotype.encode(np.arange(300, dtype='u2').reshape(20, 15)))"
    assert _loaded_after(code) == set()


def test_a_command_imports_what_it_needs_alone(tmp_path: Path) -> None:
    source, target = tmp_path / "a.calo", tmp_path / "a.png"
    source.write_bytes(calotype.encode(np.arange(300, dtype=np.uint16).reshape(20, 15), lossless=True))
    code = f"""
import contextlib, sys
from calotype.cli import main
sys.argv = ["calotype", "decode", {str(source)!r}, {str(target)!r}]
with contextlib.suppress(SystemExit):
    main()
"""
    needless = ["rich.console", "calotype.cli.encode", "calotype.cli.pack", "calotype.cli.train"]
    assert _loaded_after(code, needless) == set()
    assert target.exists()


def test_exported_names() -> None:
    assert all(hasattr(calotype, name) for name in calotype.__all__)
    errors = [getattr(calotype, n) for n in calotype.__all__ if isinstance(getattr(calotype, n), type)]
    assert all(issubclass(e, calotype.CalotypeError) for e in errors if issubclass(e, Exception))

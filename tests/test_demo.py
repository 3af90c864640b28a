"""The demo, end to end on two small crops: real files, a table, and a picture of crops."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import calotype
from calotype.bench import demo
from calotype.bench.codecs import PEERS
from calotype.bench.comparison import CELL_PX, CROP_PX
from calotype.bench.metrics import psnr_db

pytest.importorskip("skimage", reason="the demo's pictures come with scikit-image")


def test_the_pictures_are_there_and_hold_their_crops() -> None:
    for name, image in demo.pictures().items():
        left, top = demo.PICTURES[name]
        assert image.mode == "RGB"
        assert left + CROP_PX <= image.width
        assert top + CROP_PX <= image.height


def test_the_demo_writes_files_table_and_comparison(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {name: image.crop((60, 20, 188, 116)) for name, image in list(demo.pictures().items())[:2]}
    monkeypatch.setattr(demo, "pictures", lambda: small)
    monkeypatch.setattr(demo, "QUALITIES", (20, 60))
    monkeypatch.setenv("COLUMNS", "120")
    demo.main(["--out", str(tmp_path)])
    printed = capsys.readouterr().out

    for name, image in small.items():
        for quality in (20, 60):
            data = (tmp_path / f"{name}-q{quality}.calo").read_bytes()
            assert f"{len(data):,}" in printed
            assert f"{psnr_db(np.asarray(image), calotype.decode_array(data)):.2f}" in printed
            for peer in PEERS:
                assert (tmp_path / f"{name}-q{quality}{peer.suffix}").stat().st_size > 0
    with Image.open(tmp_path / "comparison.png") as sheet:
        assert sheet.width > 5 * CELL_PX
        assert sheet.height > 2 * CELL_PX
    assert printed.rstrip().endswith("comparison.png")


def test_a_peer_larger_than_calotype_is_marked() -> None:
    image = Image.new("RGB", (8, 8))
    rows = [demo.Row("codec", 0, size, 30.0, 1.0, 1.0, image) for size in (1000, 999, 1001)]
    trial = demo.Trial("astronaut", image, rows[0], tuple(rows[1:]))
    assert [trial.size(row) for row in (trial.ours, *trial.peers)] == ["1,000", "999", "1,001*"]


def test_the_demo_needs_neither_torch_nor_matplotlib_nor_scipy() -> None:
    code = "import sys, calotype.bench.demo; print({'torch', 'matplotlib', 'scipy', 'skimage'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "set()"

"""Kills, full disks and files that are gone: nothing half-written, nothing lost, and a clear error."""

from __future__ import annotations

import os
import re
import runpy
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner, Result

import calotype
from calotype import codec, whole
from calotype.archive import Archive, ArchiveWriter
from calotype.cli import app, files
from conftest import ROOT

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals and limits of POSIX")
NOISE_PX = 200


def run(*arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, f"{result.exit_code}: {result.output}"
    return result


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def noise(tmp_path: Path, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in, with a picture of 120,000 bytes that does not shrink."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(rng.integers(0, 256, (NOISE_PX, NOISE_PX, 3), dtype=np.uint8)).save("a.png")
    return tmp_path


# Kills


def test_a_killed_batch_goes_on(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    tool = ROOT / "tools" / "batch.py"
    if not tool.is_file():
        pytest.skip("tools/ is not part of the source archive")
    monkeypatch.setattr(sys, "argv", ["batch.py", "--files", "200", "--kills", "1"])
    runpy.run_path(str(tool), run_name="__main__")
    said = capsys.readouterr().out
    assert said.count("all whole") == 1
    assert re.search("^0 files  197 done before  2 failed$", said, re.MULTILINE)


WRITER = """
import sys
from collections.abc import Iterator
from pathlib import Path
from calotype.whole import write_whole
for number in range(10**9):
    write_whole(Path("state"), bytes([number % 256]) * 3_000_000)
    print(number, flush=True)
"""


def test_a_kill_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    env = os.environ | {"PYTHONPATH": str(Path(calotype.__file__).parents[1])}
    for writes in (1, 2, 5):
        process = subprocess.Popen(
            [sys.executable, "-c", WRITER], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        for _ in range(writes):
            process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        last = int((process.stdout.read().split() or [str(writes - 1)])[-1])
        process.stdout.close()
        process.wait()
        state = (tmp_path / "state").read_bytes()
        assert len(state) == 3_000_000
        assert len(set(state)) == 1
        assert state[0] in (last, last + 1)


# Full disks


@contextmanager
def full_disk() -> Iterator[None]:
    """Files may not grow over 50,000 bytes: no fixture, as pytest's own output may be such a file."""
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_full_disk_while_encoding_and_decoding(noise: Path) -> None:
    Path("b.calo").write_bytes(calotype.encode(Image.open("a.png"), lossless=True))
    Path("c.calo").write_text("precious")
    before = names(noise)
    for arguments in (["encode", "a.png", "c.calo", "--lossless", "--overwrite"], ["decode", "b.calo", "d.png"]):
        with full_disk():
            said = run(*arguments, code=1).stderr
        assert re.fullmatch(r"calotype: error: \w\.\w+: [cd]\.\w+: File too large\n", said)
    assert names(noise) == before
    assert Path("c.calo").read_text() == "precious"


def test_full_disk_while_packing(noise: Path) -> None:
    Path("in").mkdir()
    Path("a.png").rename("in/a.png")
    with full_disk():
        said = run("pack", "in", "x.caloset", "--lossless", code=1).stderr
    assert re.search(r"^calotype: error: a\.png: \S*x\.caloset: cannot be written", said, re.MULTILINE), said
    assert names(noise) == {"in/a.png"}


def test_full_disk_keeps_what_is_packed(noise: Path) -> None:
    small, large = (calotype.encode(Image.open("a.png").crop((0, 0, n, n)), lossless=True) for n in (60, NOISE_PX))
    with ArchiveWriter("x.caloset") as writer:
        writer.add_picture("small", small)
        with full_disk():
            with pytest.raises(OSError, match="cannot be written"):
                writer.add_picture("large", large)
            writer.add_picture("again", small)
    with Archive("x.caloset") as archive:
        assert archive.names == ["small", "again"]
        assert archive.image("again").size == (60, 60)


def test_full_disk_while_saving_a_model_or_a_checkpoint(noise: Path) -> None:
    import torch

    from calotype import bundle
    from calotype.learn import checkpoint

    Path("run.pt").write_text("the last state")
    with full_disk(), pytest.raises(OSError, match="too large"):
        checkpoint.save({"weights": torch.zeros(100_000)}, Path("run.pt"))
    with full_disk(), pytest.raises(OSError, match="too large"):
        bundle.write(Path("x.calomodel"), {"a": bytes(100_000)})
    assert Path("run.pt").read_text() == "the last state"
    assert names(noise) == {"a.png", "run.pt"}


# Files that are gone, and folders that cannot be read


def test_a_picture_that_goes_while_it_is_encoded(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    encode = codec.encode_picture

    def encode_and_lose(*args: object, **options: object) -> bytes:
        Path("a.png").unlink()
        return encode(*args, **options)

    monkeypatch.setattr(codec, "encode_picture", encode_and_lose)
    run("encode", "-r", ".", "-o", "out", "--lossless")
    assert calotype.info(Path("out/a.calo").read_bytes()).lossless


def test_a_folder_that_cannot_be_read_is_reported(noise: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("closed").mkdir()
    scandir = os.scandir

    def refuse(path: object) -> object:
        if Path(str(path)).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)  # type: ignore[call-overload]

    monkeypatch.setattr(os, "scandir", refuse)
    said = run("encode", "-r", ".", "-o", "out", "--lossless", code=1).stderr
    assert "calotype: error: ./closed: Permission denied\n" in said
    assert re.search("^1 file .* 1 failed", said, re.MULTILINE)
    assert names(noise / "out") == {"a.calo"}
    with pytest.raises(PermissionError, match="closed"):
        CliRunner().invoke(app, ["pack", ".", "x.caloset", "--lossless"], catch_exceptions=False)


# Resuming


def test_resume_leaves_out_what_is_done_and_only_that(noise: Path) -> None:
    for name in ("b", "c", "d"):
        Path(f"{name}.png").write_bytes(Path("a.png").read_bytes())
    run("encode", "-r", ".", "-o", "out", "--lossless")
    Path("out/b.calo").write_bytes(Path("out/b.calo").read_bytes()[:-1])  # as others may leave it
    os.utime("out/c.calo", ns=(0, Path("c.png").stat().st_mtime_ns - 1))
    Path("out/d.calo").unlink()
    said = run("encode", "-r", ".", "-o", "out", "--lossless", "--resume", code=1).stderr
    assert re.search(r"^1 file .*  1 done before  2 failed", said, re.MULTILINE)
    for name in ("b", "c"):
        assert f"{name}.png: out/{name}.calo exists: use --overwrite" in said
    said = run("encode", "-r", ".", "-o", "out", "--lossless", "--resume", "--overwrite").stderr
    assert re.search(r"^2 files .*  2 done before", said, re.MULTILINE)
    said = run("encode", "-r", ".", "-o", "out", "--lossless", "--resume").stderr
    assert re.search(r"^0 files  4 done before", said, re.MULTILINE)


def test_resume_of_decoding(noise: Path) -> None:
    run("encode", "a.png", "b.calo", "--lossless")
    assert "-> b.png" in run("decode", "b.calo", "--resume").stderr
    assert "0 files  1 done before" in run("decode", "b.calo", "--resume").stderr
    Path("b.png").write_bytes(Path("b.png").read_bytes()[:300])
    assert "b.png exists" in run("decode", "b.calo", "--resume", code=1).stderr
    run("decode", "b.calo", "--resume", "--overwrite")
    Image.open("b.png").load()


def test_resume_does_not_take_the_output_of_another_for_its_own(noise: Path) -> None:
    Image.open("a.png").save("a.bmp")
    for _ in range(2):
        said = run("encode", "a.png", "a.bmp", "--lossless", "--resume", code=1).stderr
        assert "a.bmp: a.calo is the output of a.png already" in said


def test_is_done_of_a_file_that_would_replace_itself(noise: Path) -> None:
    path = Path("a.png")
    assert not files.is_done(files.Job(path, path), lambda _: True)


def test_nothing_is_left_of_a_write_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x").write_text("old")

    def fail(_: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="Input/output"):
        whole.write_whole(tmp_path / "x", b"new")
    assert names(tmp_path) == {"x"}
    assert (tmp_path / "x").read_text() == "old"

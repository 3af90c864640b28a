"""`calotype models`: install, show, export and remove a model of one's own."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import calotype
from calotype import bundle, library
from calotype.cli import main
from test_cli import run


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_photo: Image.Image) -> Path:
    """A model that is not installed, in a folder to work in, with a picture."""
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path / "models"))
    monkeypatch.chdir(tmp_path)
    small_photo.save("a.png")
    photo = library.find("photo")
    moved = np.frombuffer(photo.members["z_offset.i16"], "<i2").copy()
    moved[0] += 1
    card = json.loads(photo.members["manifest.json"]) | {"name": "my cats"}
    members = {**photo.members, "z_offset.i16": moved.tobytes(), "manifest.json": json.dumps(card).encode()}
    bundle.write(tmp_path / "own.calomodel", members)
    return tmp_path / "own.calomodel"


def failure(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: object) -> str:
    """What the program says when it fails."""
    monkeypatch.setattr(sys, "argv", ["calotype", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 1
    return capsys.readouterr().err


def test_a_model_is_installed_shown_exported_and_removed(own: Path) -> None:
    model_id = library.open_path(own).id.hex()
    run("encode", "a.png", "own.calo", "-m", own)
    missing = run("decode", "own.calo", "own.png", code=1).stderr
    assert model_id in missing
    assert "calotype models install" in missing
    run("models", "install", own)
    assert [path.name for path in Path("models").iterdir()] == [f"my_cats-{model_id}.calomodel"]
    run("decode", "own.calo", "own.png")
    assert "my cats" in run("models").stdout
    for name in ("my cats", model_id, own):
        assert "psnr" in run("models", "show", name).stdout
    assert json.loads(run("models", "show", model_id, "--json").stdout)["name"] == "my cats"
    run("models", "export", "my cats", "given.calomodel")
    assert library.open_path(Path("given.calomodel")).id.hex() == model_id
    run("models", "remove", model_id)
    assert model_id in run("decode", "own.calo", "again.png", code=1).stderr
    assert [model.name for model in calotype.models()] == ["photo"]


def test_what_cannot_be_done_with_a_model_is_said(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("bad.calomodel").write_bytes(own.read_bytes()[:1000])
    for said, arguments in {
        "stays": ("remove", "photo"),
        "no model 'cats'": ("remove", "cats"),
        "no model named 'cats'": ("show", "cats"),
        "no such model file": ("install", "gone.calomodel"),
        "not a model file": ("install", "bad.calomodel"),
        "exists": ("export", "photo", own),
    }.items():
        assert said in failure(capsys, monkeypatch, "models", *arguments)
    assert not Path("models").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="links need rights there")
@pytest.mark.filterwarnings("ignore:a model is left out")
def test_links_and_folders_among_the_models(own: Path) -> None:
    Path("models").mkdir()
    Path("models/gone.calomodel").symlink_to("nowhere")
    Path("models/folder.calomodel").mkdir()
    Path("models/link.calomodel").symlink_to(own)
    assert "my cats" in run("models").stdout
    run("models", "remove", "my cats")
    assert own.exists()
    assert not Path("models/link.calomodel").is_symlink()


def test_a_name_does_not_steer_the_terminal(own: Path) -> None:
    first = library.open_path(own)
    card = json.dumps(first.card | {"name": "\x1b[2Jcats"}).encode()
    bundle.write(Path("wild.calomodel"), {**first.members, "manifest.json": card})
    shown = run("models", "show", "wild.calomodel").stdout
    assert "cats" in shown
    assert "\x1b" not in shown


def test_two_models_of_one_name_are_told_apart_by_id(
    own: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = library.open_path(own)
    moved = np.frombuffer(first.members["z_offset.i16"], "<i2") + np.int16(1)
    bundle.write(Path("other.calomodel"), {**first.members, "z_offset.i16": moved.astype("<i2").tobytes()})
    run("models", "install", own, "other.calomodel")
    assert "give the id" in failure(capsys, monkeypatch, "models", "remove", "my cats")
    assert "give the id" in failure(capsys, monkeypatch, "encode", "a.png", "-m", "my cats")
    run("encode", "a.png", "-m", first.id.hex())
    run("models", "remove", first.id.hex())
    assert [model.name for model in calotype.models()] == ["photo", "my cats"]

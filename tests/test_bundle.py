from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import calotype
from calotype import bundle, library
from calotype.bundle import Bundle
from calotype.errors import CalotypeError, InvalidModel, ModelNotFound
from calotype.proof import prove


@pytest.fixture
def members(photo_model: Bundle) -> dict[str, bytes]:
    return dict(photo_model.members)


def _written(tmp_path: Path, members: dict[str, bytes]) -> Path:
    path = tmp_path / "mine.calomodel"
    bundle.write(path, members)
    return path


def test_a_copied_model_works(tmp_path: Path, members: dict[str, bytes], small_photo: Image.Image) -> None:
    path = _written(tmp_path, members)
    data = calotype.encode(small_photo, model=path)
    assert calotype.decode(data).size == small_photo.size
    assert calotype.decode(data, model=str(path)).size == small_photo.size


def test_id_covers_what_decoding_needs_and_no_more(
    members: dict[str, bytes], tmp_path: Path, photo_model: Bundle
) -> None:
    card = json.loads(members["manifest.json"])
    card["note"] = "changed"
    members["manifest.json"] = json.dumps(card).encode()
    members["g_a.onnx"] += b""
    assert bundle.read(_written(tmp_path, members)).id == photo_model.id
    members["z_offset.npy"] = members["z_offset.npy"][:-2] + b"\1\0"
    assert bundle.read(_written(tmp_path, members)).id != photo_model.id


def test_found_in_the_users_folder(tmp_path: Path, members: dict[str, bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    card = json.loads(members["manifest.json"]) | {"name": "mine"}
    members["manifest.json"] = json.dumps(card).encode()
    _written(tmp_path, members)
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path))
    assert [b.name for b in calotype.models()] == ["photo", "mine"]
    assert library.find("mine").name == "mine"


def test_a_bad_model_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bad.calomodel").write_bytes(b"not a model")
    monkeypatch.setenv("CALOTYPE_MODELS", str(tmp_path))
    with pytest.warns(UserWarning, match="left out"):
        assert [b.name for b in calotype.models()] == ["photo"]


def test_missing_models(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFound, match="installed: photo"):
        library.find("nonesuch")
    with pytest.raises(ModelNotFound, match="no such model file"):
        library.find(tmp_path / "x.calomodel")


def _change_manifest(members: dict[str, bytes], **changes: object) -> None:
    members["manifest.json"] = json.dumps(json.loads(members["manifest.json"]) | changes).encode()


@pytest.mark.parametrize(
    "changes",
    [
        {"format": 2}, {"channels": 0}, {"channels": 17}, {"y_channels": 321}, {"steps": 3}, {"status": "great"},
        {"heads": []}, {"heads": [{"name": "x", "graph": "../x"}]}, {"decoding": []}, {"preview": 3},
        {"decoding": ["g_a.onnx"]}, {"z_channels": "many"},
    ],
)  # fmt: skip
def test_bad_manifests(tmp_path: Path, members: dict[str, bytes], changes: dict[str, object]) -> None:
    _change_manifest(members, **changes)
    with pytest.raises(InvalidModel):
        bundle.read(_written(tmp_path, members))


@pytest.mark.parametrize("raw", [b"", b"[]", b"null", b"{", b"\xff", b"[" * 100_000])
def test_manifests_that_are_none(tmp_path: Path, members: dict[str, bytes], raw: bytes) -> None:
    members["manifest.json"] = raw
    with pytest.raises(InvalidModel):
        bundle.read(_written(tmp_path, members))


@pytest.mark.parametrize("name", ["tables.npy", "radii.npy", "z_offset.npy", "z_table.npy", "level_bias.npy"])
def test_bad_arrays(tmp_path: Path, members: dict[str, bytes], name: str, photo_model: Bundle) -> None:
    whole = members[name]
    pickled = (
        b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }" + b" " * 60 + b"\n\x80\x04N."
    )
    for raw in (b"", whole[:-3], whole[:100], pickled, whole.replace(b"(", b"(9,", 1)):
        members[name] = raw
        path = _written(tmp_path, members)
        with pytest.raises(CalotypeError):
            library.open_path(path)


def test_zip_tricks(tmp_path: Path, members: dict[str, bytes]) -> None:
    path = tmp_path / "x.calomodel"
    for name, how in (("../evil", zipfile.ZIP_STORED), ("ok.bin", zipfile.ZIP_DEFLATED)):
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("manifest.json", members["manifest.json"])
            archive.writestr(name, b"x" * 100, how)
        with pytest.raises(InvalidModel):
            bundle.read(path)
    for raw in (b"", b"PK\x05\x06", path.read_bytes()[:-30]):
        path.write_bytes(raw)
        with pytest.raises(InvalidModel):
            bundle.read(path)


def test_vetted_before_use(tmp_path: Path, members: dict[str, bytes]) -> None:
    for raw in (b"", b"not onnx", members["g_s.onnx"]):
        members["h_s.onnx"] = raw
        with pytest.raises(InvalidModel, match=r"h_s\.onnx"):
            library.open_path(_written(tmp_path, members))


def _one_conv(weight: np.ndarray, *, opset: int = 17, kind: str = "Conv") -> bytes:
    channels = weight.shape[1]
    constants = {
        "lo": np.float32(-512),
        "hi": np.float32(511),
        "w": weight.astype(np.float32),
        "b": np.zeros(len(weight), "f4"),
    }
    nodes = [
        helper.make_node("Clip", ["x", "lo", "hi"], ["c"]),
        helper.make_node(kind, ["c", "w", "b"][: 3 if kind == "Conv" else 1], ["y"]),
    ]
    value = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, "h", "w"])
        for n, c in (("x", channels), ("y", len(weight)))
    ]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8).SerializeToString()


def test_proof_accepts_what_is_exact_and_measures_it() -> None:
    (layer,) = prove("g", _one_conv(np.full((2, 100, 1, 1), 127 / 4)))
    assert layer.used == pytest.approx(100 * 127 * 512 / 2**24)


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (_one_conv(np.full((1, 300, 1, 1), 127.0)), "bound"),
        (_one_conv(np.full((1, 1, 1, 1), 1 / 3)), "bound"),
        (_one_conv(np.ones((1, 1, 3, 3)).repeat(2, 1)), "depthwise"),
        (_one_conv(np.ones((1, 1, 1, 1)), opset=18), "opset"),
        (_one_conv(np.ones((1, 1, 1, 1)), kind="Exp"), "operators"),
    ],
)
def test_proof_refuses(raw: bytes, why: str) -> None:
    with pytest.raises(InvalidModel, match=why):
        prove("g", raw)


def test_external_data_is_refused(members: dict[str, bytes]) -> None:
    model = onnx.load_from_string(_one_conv(np.ones((1, 1, 1, 1))))
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(InvalidModel):
        prove("g", model.SerializeToString())

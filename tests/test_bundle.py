from __future__ import annotations

import json
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import calotype
from calotype import bundle, library
from calotype.bundle import Bundle
from calotype.errors import InvalidModel, ModelNotFound
from calotype.hyper import SIZES, Context
from calotype.learn.export import with_context
from calotype.manifest import CONTEXT
from calotype.proof import prove
from calotype.work import Budget, check_work


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
    members["z_offset.i16"] = members["z_offset.i16"][:-2] + b"\1\0"
    assert bundle.read(_written(tmp_path, members)).id != photo_model.id


def test_the_id_covers_what_is_quiet(members: dict[str, bytes], tmp_path: Path, photo_model: Bundle) -> None:
    radii = np.frombuffer(members["radii.u16"], "<u2")
    assert np.array_equal(photo_model.tables.quiet, radii >= bundle.QUIET)
    members["radii.u16"] = (radii ^ bundle.QUIET).astype("<u2").tobytes()
    changed = bundle.read(_written(tmp_path, members))
    assert np.array_equal(changed.tables.quiet, ~photo_model.tables.quiet)
    assert np.array_equal(changed.tables.radii, photo_model.tables.radii)
    assert changed.id != photo_model.id


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
        {"heads": []}, {"heads": [{"name": "x", "graph": "../x"}]},
        {"heads": [{"name": "psnr", "graph": "g_s.onnx", "reach_px": 24}]}, {"decoding": []}, {"preview": 3},
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


@pytest.mark.parametrize("name", ["tables.u32", "radii.u16", "z_offset.i16", "z_table.u8", "level_bias.i16"])
def test_bad_arrays(tmp_path: Path, members: dict[str, bytes], name: str) -> None:
    whole = members[name]
    for raw in (b"", whole[:-3], whole[:100], bytes(len(whole) + 8)):
        members[name] = raw
        with pytest.raises(InvalidModel, match=name.split(".")[0]):
            library.open_path(_written(tmp_path, members))


def test_bad_contexts_of_z(tmp_path: Path, members: dict[str, bytes]) -> None:
    channels, tables = json.loads(members["manifest.json"])["z_channels"], len(members["radii.u16"]) // 2
    good = Context(np.zeros((2, channels), np.int8), np.zeros((tables, SIZES), np.uint8))
    assert library.open_path(_written(tmp_path, with_context(members, good))).z_context is not None
    foreign = np.full((tables, SIZES), tables, np.uint8)
    for context in (
        replace(good, weight=good.weight[:1]),
        replace(good, table=good.table[1:]),
        replace(good, table=foreign),
    ):
        with pytest.raises(InvalidModel, match="z_near"):
            library.open_path(_written(tmp_path, with_context(members, context)))
    halved = with_context(members, good)
    decoding = json.loads(halved["manifest.json"])["decoding"]
    _change_manifest(halved, decoding=[name for name in decoding if name != CONTEXT[0]])
    with pytest.raises(InvalidModel, match=r"decoding must list.*z_weight"):
        bundle.read(_written(tmp_path, halved))


def test_arrays_out_of_range(tmp_path: Path, members: dict[str, bytes]) -> None:
    bad = [
        ("z_table.u8", b"\xff"),
        ("tables.u32", b"\0\0\0\0"),
        ("z_offset.i16", b"\x80\0"),
        ("z_offset.i16", b"\0\x80"),
    ]
    for name, raw in [*bad, *(("radii.u16", radius) for radius in (b"\0\0", b"\0\x80", b"\0\x90"))]:
        changed = {**members, name: raw + members[name][len(raw) :]}
        with pytest.raises(InvalidModel):
            library.open_path(_written(tmp_path, changed))


def test_graphs_under_other_names_are_vetted_too(tmp_path: Path, members: dict[str, bytes]) -> None:
    card = json.loads(members["manifest.json"])
    for name in ("g_s.bin", "g_a.onnx", "manifest.json", "other.onnx"):
        heads = [{"name": "psnr", "graph": name}]
        decoding = sorted({*card["decoding"], name} - {"g_s.onnx"})
        changed = {**members, name: members.get(name, b"not onnx")}
        _change_manifest(changed, heads=heads, decoding=decoding)
        with pytest.raises(InvalidModel):
            library.open_path(_written(tmp_path, changed))


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


def _graph(*steps: tuple[str, str, str, dict[str, object]], **constants: object) -> bytes:
    """A graph from x (4 channels) to features; a step is (operator, "inputs", output, attributes)."""
    values = {"lo": np.float32(-512), "hi": np.float32(511), **constants}
    nodes = [helper.make_node(kind, inputs.split(), [out], **how) for kind, inputs, out, how in steps]
    value = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, "h", "w"]) for n in ("x", "features")]
    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()]
    graph = helper.make_graph(nodes, "g", value[:1], value[1:], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


CLIP, MID = ("Clip", "x lo hi", "c", {}), ("Floor", "c", "y", {})
END = [("Floor", "y", "f", {}), ("Clip", "f lo hi", "features", {})]


def _one_conv(weight: object, bias: object = 0.5, **how: object) -> bytes:
    shape = (4, 1, 3, 3) if how else (4, 4, 1, 1)
    w, b = np.full(shape, weight, np.float32), np.full(4, bias, np.float32)
    return _graph(CLIP, ("Conv", "c w b", "y", how), *END, w=w, b=b)


def _clipped_to(low: float, high: float) -> bytes:
    """A convolution of what lies between two numbers, whatever came before."""
    w, b, ends = np.full((4, 4, 1, 1), 3, np.float32), np.zeros(4, np.float32), ("Clip", "c from to", "d", {})
    limits = {"from": np.float32(low), "to": np.float32(high)}
    return _graph(CLIP, ends, ("Conv", "d w b", "y", {}), *END, w=w, b=b, **limits)


def _grouped(groups: int, blocksize: int = 2) -> bytes:
    w, b = np.ones((4, 8, 1, 1), np.float32), np.full(4, 3, np.float32)
    unshuffle = ("SpaceToDepth", "c", "s", {"blocksize": blocksize})
    return _graph(CLIP, unshuffle, ("Conv", "s w b", "y", {"group": groups}), *END, w=w, b=b)


def test_proof_accepts_what_is_exact_and_measures_it() -> None:
    (layer,) = prove("g", _one_conv(127 / 4))
    assert layer.used == pytest.approx((4 * 127 * 512 + 2) / 2**24)  # on a grid of 1/4
    prove("g", _one_conv(1.0, group=4, kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
    (layer,) = prove("g", _grouped(2))
    assert layer.used == pytest.approx((8 * 512 + 3) / 2**24)  # of eight inputs each


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        (_clipped_to(2**23, 2**23), "bound"),
        (_clipped_to(-(2**23), -(2**22)), "bound"),
        (_one_conv(9000.0), "bound"),
        (_one_conv(1 / 3), "bound"),
        (_one_conv(1.0, 1 / 3), "bound"),
        (_one_conv(1.0, np.nan), "no numbers"),
        (_one_conv(1.0, np.inf), "no numbers"),
        (_one_conv(1.0, group=4, kernel_shape=[3, 3], pads=[0, 0, 0, 0]), "depthwise"),
        (_one_conv(1.0, group=4, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]), "depthwise"),
        (_grouped(4), "1x1"),
        (_grouped(3), "groups"),
        (_grouped(0), "groups"),
        (_grouped(2, blocksize=1 << 20), "channels"),
        (_graph(("Exp", "x", "features", {})), "operators"),
        (_graph(("Floor", "x", "features", {})), "limits"),
        (_graph(CLIP, ("Mul", "c third", "y", {}), *END, third=np.float32(1 / 3)), "power of 2"),
        (_graph(CLIP, ("Mul", "c small", "features", {}), small=np.float32(2**-20)), "known result"),
        (_graph(CLIP, ("Mul", "c large", "features", {}), large=np.float32(2**20)), "known result"),
        (_graph(("Clip", "x third two", "features", {}), third=np.float32(1 / 3), two=np.float32(2)), "known result"),
        (_graph(CLIP, ("DepthToSpace", "c", "y", {"blocksize": 2}), *END), "CRD"),
        (_graph(CLIP, ("Concat", "c c", "y", {"axis": 2}), *END), "axis"),
        (_graph(CLIP, ("Cast", "d", "w", {"to": 10}), MID, *END, d=np.int8(1)), "cast"),
        (_graph(CLIP, MID, *END, x=np.zeros((1, 4, 1, 1), np.float32)), "inputs"),
        (_graph(CLIP, ("Cast", "d", "w", {"to": 1}), MID, *END, d=np.float64(1)), "float32 nor int8"),
        (_graph(CLIP, ("Mul", "a a", "y", {}), *END, a=np.float32(1 + 2**-13)), "no float32"),
    ],
)  # fmt: skip
def test_proof_refuses(raw: bytes, why: str) -> None:
    with pytest.raises(InvalidModel, match=why):
        prove("g", raw)


@pytest.mark.parametrize("doublings", [20, 60])
def test_a_proof_takes_little_memory(doublings: int) -> None:
    names = ["c", *(f"t{i}" for i in range(doublings))]
    steps = [("Concat", f"{a} {a}", b, {"axis": 1}) for a, b in pairwise(names)]
    with pytest.raises(InvalidModel, match="channels"):
        prove("g", _graph(CLIP, *steps, MID, *END))
    tall, wide = np.ones((1 << 14, 1), np.float32), np.ones((1, 1 << 14), np.float32)
    with pytest.raises(InvalidModel, match="products of"):
        prove("g", _graph(("Mul", "tall wide", "p", {}), CLIP, MID, *END, tall=tall, wide=wide))
    many = [("Floor", names[15], f"f{i}", {}) for i in range(100)]
    with pytest.raises(InvalidModel, match="tensors have over"):
        prove("g", _graph(CLIP, *steps[:15], MID, *END[:0], *many, ("Floor", "y", "f", {}), END[1]))


def test_proof_is_not_fooled_by_signs() -> None:
    minus = ("Mul", "c minus", "n", {})
    huge = ("Mul", "n huge", "m", {}), ("Mul", "c huge", "k", {}), ("Add", "m k", "s", {})
    raw = _graph(CLIP, minus, *huge, ("Conv", "s w b", "y", {}), *END, minus=np.float32(-1), huge=np.float32(2.0**20),
                 w=np.full((4, 4, 1, 1), 0.5, np.float32), b=np.zeros(4, np.float32) + 0.5)  # fmt: skip
    with pytest.raises(InvalidModel, match="bound"):
        prove("g", raw)


def test_external_data_is_refused(members: dict[str, bytes]) -> None:
    model = onnx.load_from_string(_one_conv(1.0))
    tensor = model.graph.initializer[2]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/passwd")
    with pytest.raises(InvalidModel):
        prove("g", model.SerializeToString())


# --- graphs that ask for too much ------------------------------------------------------------------------------------

WORK = Budget({"x": (1, 1, 64, 64)}, 1 << 17, 1 << 25)


def _float_graph(*nodes: onnx.NodeProto, **constants: object) -> onnx.ModelProto:
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * 4) for name in ("x", "out")]
    weights = [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in constants.items()]
    return helper.make_model(
        helper.make_graph(nodes, "g", ends[:1], ends[1:], weights), opset_imports=[helper.make_opsetid("", 17)]
    )


@pytest.mark.parametrize(
    "node",
    [
        helper.make_node("ConvTranspose", ["x", "w"], ["out"], strides=[100, 100]),
        helper.make_node("Conv", ["x", "w"], ["out"], pads=[1 << 20] * 4),
        helper.make_node("MaxPool", ["x"], ["out"], kernel_shape=[64, 64], pads=[63] * 4),
    ],
    ids=["strides", "padding", "pooling"],
)
def test_graphs_that_ask_for_too_much(node: onnx.NodeProto) -> None:
    with pytest.raises(InvalidModel, match="the limit"):
        check_work("g", _float_graph(node, w=np.ones((1, 1, 3, 3))), WORK)


def test_one_weight_used_often() -> None:
    names = ["x", *(f"t{i}" for i in range(1999)), "out"]
    nodes = [helper.make_node("Conv", [a, "w"], [b], pads=[1] * 4) for a, b in pairwise(names)]
    check_work("g", _float_graph(*nodes[:3], helper.make_node("Abs", ["t2"], ["out"]), w=np.ones((1, 1, 3, 3))), WORK)
    with pytest.raises(InvalidModel, match="multiplications"):
        check_work("g", _float_graph(*nodes, w=np.ones((1, 1, 3, 3))), WORK)


def test_weights_that_multiply_each_other() -> None:
    nodes = [helper.make_node("Mul", ["a", "b"], ["w"]), helper.make_node("Mul", ["x", "w"], ["out"])]
    with pytest.raises(InvalidModel, match="the limit"):
        check_work("g", _float_graph(*nodes, a=np.ones((1, 1 << 13, 1, 1)), b=np.ones((1, 1, 64, 64))), WORK)

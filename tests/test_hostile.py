"""Short runs of what `make fuzz` does for hours, and every input that once broke something."""

from __future__ import annotations

import io
import random
import sys
import zipfile
import zlib
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent / "fuzz"))

import mutate
import mutations
import targets

ONCE_BROKE = sorted((targets.CORPUS / "found").glob("*"))


def test_no_change_goes_unnoticed() -> None:
    counts = mutate.tally(350, seed=1)
    assert counts.total() == 350
    assert {kind for _, kind, _ in counts} == {kind.__name__ for kind in mutations.PLAIN}


@pytest.mark.parametrize("name", targets.TARGETS)
def test_bytes_with_sound_checksums_end_in_a_result_or_our_error(name: str) -> None:
    rng, data = random.Random(2), (targets.CORPUS / targets.FIRST[name]).read_bytes()
    outcomes = [targets.run(name, mutations.signed(name, data, rng)) for _ in range(40)]
    assert None in outcomes


def test_what_once_broke_something() -> None:
    for path in ONCE_BROKE:
        targets.run(path.name.split("-")[0], path.read_bytes())


@pytest.mark.parametrize("name", targets.TARGETS)
def test_the_corpus_is_sound(name: str) -> None:
    assert targets.run(name, (targets.CORPUS / targets.FIRST[name]).read_bytes())


def test_signing_makes_checksums_hold() -> None:
    data = (targets.CORPUS / "tiles.calo").read_bytes()
    broken = data[:8] + bytes(4) + data[12:]
    assert mutations.resigned(data) == data
    assert mutations.resigned(broken) != broken


def test_the_images_of_an_archive_are_declared_pixels() -> None:
    data = (targets.CORPUS / "all.caloset").read_bytes()
    assert targets.declared_pixels("archive", data) >= 64
    assert targets.declared_pixels("archive", data[:1000]) == 0


def test_models_whose_members_do_not_inflate_are_changed_all_the_same() -> None:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("manifest.json", b"calotype" * 100)
    broken = bytearray(file.getvalue())
    broken[43] = 0xFF  # a kind of block that there is not
    with pytest.raises(zlib.error), zipfile.ZipFile(io.BytesIO(broken)) as archive:
        archive.read("manifest.json")
    assert mutations.changed_member(bytes(broken), random.Random(3)) != broken


def test_the_harness_notices_what_is_none_of_our_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(_: bytes) -> targets.Result:
        raise KeyError

    monkeypatch.setitem(targets.TARGETS, "container", fails)
    with pytest.raises(KeyError):
        targets.run("container", b"")

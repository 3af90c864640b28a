"""How tasks that run side by side share the cores."""

from __future__ import annotations

import time
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

import calotype
from calotype import container, library, runtime, threads
from calotype.decoder import parts_of, view_of
from calotype.runtime import Runtime


def _shares(tasks: int) -> set[int]:
    def share(_: int) -> int:
        time.sleep(0.01)
        return threads.share()

    with threads.pool(tasks) as executor:
        return set(executor.map(share, range(tasks)))


@pytest.mark.parametrize(
    ("cores", "tasks", "share"), [(2, 1, 2), (2, 2, 1), (2, 9, 1), (8, 2, 4), (8, 9, 2), (6, 9, 1), (1, 9, 1)]
)
def test_tasks_share_the_cores(monkeypatch: pytest.MonkeyPatch, cores: int, tasks: int, share: int) -> None:
    monkeypatch.setattr(threads, "cores", lambda: cores)
    assert _shares(tasks) == {share}
    assert threads.share() == cores


def test_tasks_of_tasks_share_what_those_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 8)
    with threads.pool(2) as executor:
        assert executor.submit(_shares, 4).result() == {1}
    with threads.workers(16) as executor:
        assert executor.submit(_shares, 4).result() == {1}


def test_a_task_runs_its_networks_on_its_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 4)
    networks = Runtime(library.find(None))
    z = np.zeros((networks.bundle.manifest.z_channels, 1, 1), np.int16)
    alone = networks.features(z, 100)
    with threads.pool(2) as executor:
        for features in executor.map(networks.features, [z] * 2, [100] * 2):
            np.testing.assert_array_equal(features, alone)
    assert {threads for _, threads in networks._sessions} == {4, 2}  # pyright: ignore[reportPrivateUsage]


@pytest.mark.parametrize(("region", "side_by_side"), [(None, True), ((500, 0, 200, 64), False)])
def test_what_goes_by_itself_has_all_cores(
    photo: Image.Image, region: tuple[int, int, int, int] | None, side_by_side: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(threads, "cores", lambda: 4)
    whole = container.unpack(calotype.encode(photo.resize((1100, 64))))
    assert (whole.header.tile_count, whole.header.coding is None) == (2, False)
    networks = Runtime(library.find(None))
    list(parts_of(whole, networks, view_of(whole.header, region, None, None)))
    used = networks._sessions  # pyright: ignore[reportPrivateUsage]
    assert {count for graph, count in used if graph.startswith("step_")} == {2}
    assert {count for graph, count in used if graph == "g_s.onnx"} == {2 if side_by_side else 4}


@pytest.mark.parametrize(
    ("version", "said"),
    [
        ("1.20.0", {"allow_spinning": "0"}),
        ("1.26.0", {"allow_spinning": "1", "spin_duration_us": runtime.WAIT_US}),
        ("2.0.1+cpu", {"allow_spinning": "1", "spin_duration_us": runtime.WAIT_US}),
    ],
)
def test_threads_wait_briefly_where_they_can_be_told_so(version: str, said: dict[str, str]) -> None:
    entries = dict[str, str]()
    options = SimpleNamespace(add_session_config_entry=entries.__setitem__)
    runtime._wait_briefly(SimpleNamespace(__version__=version), options)  # pyright: ignore[reportPrivateUsage]
    assert entries == {f"session.intra_op.{name}": value for name, value in said.items()}

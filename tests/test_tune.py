"""The search over recipes: `calotype tune`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.trial import TrialState
from PIL import Image

from calotype import cli, datasets
from calotype.errors import CalotypeError, InputError, OptionError
from calotype.learn.bitsback import fit as bitsback
from calotype.learn.textbook import config, fit
from calotype.learn.tune import study as studies
from calotype.learn.tune.knobs import KNOBS, sections
from calotype.learn.tune.trial import DB_A_BIT, Task, costs, image_bytes_at

CURVE = [{"image_bytes": 4.0, "psnr_db": 20.0}, {"image_bytes": 16.0, "psnr_db": 24.0}]


@pytest.fixture(scope="module")
def data() -> datasets.Dataset:
    return datasets.load("digits")


def never() -> bool:
    return False


def _main(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    """Exit status of the command line."""
    monkeypatch.setattr(sys, "argv", ["calotype", *map(str, words)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_a_cost_lies_on_the_curve_or_pays_for_the_residual() -> None:
    assert image_bytes_at(CURVE, 22, 64) == pytest.approx(8)
    assert image_bytes_at(CURVE, 10, 64) == pytest.approx(4)
    assert image_bytes_at(CURVE, 24 + DB_A_BIT, 64) == pytest.approx(16 + 64 / 8)


@pytest.mark.parametrize("arch", KNOBS)
def test_what_is_searched_is_a_recipe(arch: str, data: datasets.Dataset, tmp_path: Path) -> None:
    """The usual values lie within each knob's range, and the file can be trained from."""
    task = Task(arch, data, 1.0, 20.0)
    usual = studies.usual(task)
    for knob in studies.knobs(task):
        assert knob.low <= usual[knob.name] <= knob.high
    (tmp_path / "r.json").write_text(json.dumps(sections(arch, usual)))
    if task.lossless:
        plan = bitsback.plan_of(arch, tmp_path / "r.json", data, "x", {})
        assert (plan.architecture.latents, plan.architecture.width) == (
            bitsback.USUAL[arch][0].latents,
            bitsback.USUAL[arch][0].width,
        )
    else:
        plan = fit.plan_of(arch, tmp_path / "r.json", data, "x", {})
        assert plan.recipe == config.usual(arch).recipe


@pytest.mark.parametrize("arch", ["pca", "dense-vae", "lossless-vae"])
def test_a_trial_has_a_cost_at_each_quarter(arch: str, data: datasets.Dataset) -> None:
    task = Task(arch, data, 0.01, 16.0)
    usual = sections(arch, studies.usual(task))
    found = list(costs(task, usual, never))
    assert len(found) == (1 if arch == "pca" else 4)
    assert all(0 < cost < 1000 for cost in found)
    assert not list(costs(task, usual, lambda: True)) or arch == "pca"


@pytest.fixture
def bowl(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trials that take no time: the cost is least at few latents, and too many cannot be trained."""

    def made(task: Task, recipe: dict[str, dict[str, float]], stopped: object) -> Iterator[float]:
        latents = recipe["architecture"]["latents"]
        if latents > 50:
            raise CalotypeError("too many")
        yield from (latents * 4.0 / quarter for quarter in range(1, 5))

    monkeypatch.setattr(studies, "costs", made)


def test_a_search_finds_the_least_cost_and_goes_on(data: datasets.Dataset, tmp_path: Path, bowl: None) -> None:
    task = Task("dense-vae", data, 1.0, 20.0)
    seen: list[int] = []
    assert studies.search(task, studies.open_study(task, tmp_path), 6, never, lambda t: seen.append(t.number))
    again = studies.open_study(task, tmp_path)
    assert studies.done(again) == 6 == len(seen)
    assert studies.search(task, again, 14, never, lambda t: seen.append(t.number))
    assert seen == [*range(14)]
    ended = again.get_trials()
    assert {trial.state for trial in ended} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert ended[0].params == studies.usual(task)
    assert "too many" in [trial.user_attrs.get("error") for trial in ended]
    best = json.loads(studies.write_best(task, again, tmp_path).read_text())
    complete = [trial for trial in ended if trial.state == TrialState.COMPLETE]
    assert best["architecture"]["latents"] == min(trial.params["latents"] for trial in complete)
    assert len({tuple(trial.params.values()) for trial in ended}) == 14


def test_a_training_that_fails_is_given_up_and_a_wrong_task_is_refused(data: datasets.Dataset, tmp_path: Path) -> None:
    task = Task("dense-ae", data, 0.01, 16.0)
    wild = sections("dense-ae", studies.usual(task) | {"rate": 1e9})
    with pytest.raises(CalotypeError, match="lower"):
        list(costs(task, wild, never))
    odd = replace(data, train=replace(data.train, images=data.train.images[:, :7]))
    task = Task("conv-ae", odd, 0.01, 16.0)
    study = studies.open_study(task, tmp_path)
    with pytest.raises(OptionError, match="multiples of 4"):
        studies.search(task, study, 1, never, lambda _: None)


def test_an_interrupted_trial_is_tried_again_first(data: datasets.Dataset, tmp_path: Path, bowl: None) -> None:
    task = Task("dense-vae", data, 1.0, 20.0)
    study = studies.open_study(task, tmp_path)
    assert studies.search(task, study, 2, never, lambda _: None)
    left = study.ask({knob.name: knob.distribution for knob in studies.knobs(task)})
    again = studies.open_study(task, tmp_path)
    assert studies.search(task, again, 3, never, lambda _: None)
    states = [(trial.state, trial.params) for trial in again.get_trials()]
    assert states[2] == (TrialState.FAIL, left.params)
    assert states[3][1] == left.params


def test_a_folder_of_another_search_is_refused(data: datasets.Dataset, tmp_path: Path) -> None:
    studies.open_study(Task("pca", data, 1.0, 20.0), tmp_path)
    with pytest.raises(OptionError, match="holds a search"):
        studies.open_study(Task("pca", data, 1.0, 21.0), tmp_path)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / studies.STUDY).write_bytes(b"no database" * 1000)
    with pytest.raises(InputError, match="cannot be read"):
        studies.open_study(Task("pca", data, 1.0, 20.0), tmp_path / "other")


def test_the_command_writes_plots_and_a_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "search"
    command = ("tune", "digits", "--arch", "dense-ae", "--minutes", "0.003", "--psnr", "16", "-o", out, "--trials")
    assert _main(monkeypatch, *command, 5) == 0
    shown = capsys.readouterr()
    assert "best.json" in shown.out
    assert shown.err.count("calotype: trial") == 5
    for name in ("history", "courses", "knobs"):
        with Image.open(out / f"{name}.png") as plot:
            assert min(plot.size) > 200
    assert _main(monkeypatch, *command, 5) == 0
    assert "calotype: trial" not in capsys.readouterr().err
    trained = ("train", "digits", "--arch", "dense-ae", "--recipe", out / "best.json", "--minutes", "0.003")
    assert _main(monkeypatch, *trained, "-o", tmp_path / "m.calomodel") == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--arch", "photo"), "none of pca"),
        (("--arch", "hvae", "--psnr", "20"), "--psnr has no effect"),
    ],
)
def test_what_cannot_be_searched_is_refused(
    words: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _main(monkeypatch, "tune", "digits", *words, "-o", "x") == 2
    assert said in capsys.readouterr().err

"""`calotype advise`: what it says follows from what was coded."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from calotype.bench import advice
from calotype.bench.codecs import JPEG, PNG, WEBP
from calotype.bench.metrics import psnr_db
from calotype.cli import app
from calotype.errors import InputError


def test_bytes_at_a_psnr_lie_between_those_of_neighbouring_qualities(small_photo: Image.Image) -> None:
    def reached_db(quality: int) -> float:
        return psnr_db(np.asarray(small_photo), np.asarray(JPEG.decode(JPEG.encode(small_photo, quality))))

    sizes = [len(JPEG.encode(small_photo, quality)) for quality in (60, 61)]
    size = advice.bytes_at(JPEG, small_photo, (reached_db(60) + reached_db(61)) / 2)
    assert size is not None
    assert sizes[0] < size < sizes[1]
    assert advice.bytes_at(JPEG, small_photo, 1.0) == len(JPEG.encode(small_photo, 0))
    assert advice.bytes_at(WEBP, small_photo, 80.0) is None
    assert advice.bytes_at(PNG, small_photo, 80.0) == len(PNG.encode(small_photo, 0))


def test_a_picture_that_comes_back_exactly_has_a_number(tmp_path: Path) -> None:
    Image.new("L", (64, 64), 128).save(tmp_path / "blank.png")
    *_, found = advice.advise([tmp_path / "blank.png"], 100, 12)
    assert found is not None
    assert found.psnr_db <= advice.EXACT_DB
    json.dumps(asdict(found), allow_nan=False)


def test_a_model_pays_from_some_number_of_pictures_on() -> None:
    few, many = advice.personal(1, 10_000).break_even_pictures
    assert few * 10_000 * advice.GAIN[1] >= advice.MODEL_BYTES > (few - 1) * 10_000 * advice.GAIN[1]
    assert many * 10_000 * advice.GAIN[0] >= advice.MODEL_BYTES
    verdicts = [advice.personal(count, 10_000).verdict for count in (few - 1, few, many - 1, many)]
    assert verdicts == ["no", "perhaps", "perhaps", "yes"]


@pytest.fixture
def pictures(tmp_path: Path, small_photo: Image.Image) -> Path:
    part = small_photo.crop((40, 40, 136, 136))
    part.save(tmp_path / "a.png")
    part.convert("L").save(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(b"no picture")
    return tmp_path


def test_the_command(pictures: Path) -> None:
    run = CliRunner()
    shown = run.invoke(app, ["advise", str(pictures)])
    assert shown.exit_code == 0
    assert "1 of the sample" in shown.stdout
    assert "would not pay" in shown.stdout
    found = json.loads(run.invoke(app, ["advise", str(pictures), "-q", "40", "--json"]).stdout)
    assert (found["pictures"], found["sampled"], found["unread"]) == (3, 3, 1)
    photo, *others = found["rows"]
    assert photo["codec"] == "calotype photo"
    assert photo["against_photo"] == 0
    assert {"AVIF", "WebP (slowest)"} <= {row["codec"] for row in others}
    assert all(row["bpp"] > 0 for row in others)


def test_nothing_to_advise_on(pictures: Path, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (pictures / name).unlink()
    with pytest.raises(InputError, match="none of 1"):
        list(advice.advise([pictures / "c.png"], 60, 12))
    empty = tmp_path / "empty"
    empty.mkdir()
    for folder in (empty, tmp_path / "none"):
        assert isinstance(CliRunner().invoke(app, ["advise", str(folder)]).exception, InputError)

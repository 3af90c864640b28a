"""The report of a benchmark: nothing from outside, nothing unescaped, and a viewer that does what it says."""

import os
import re
import shutil
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("jinja2", reason="the report is a template")
pytest.importorskip("scipy", reason="BD-rates need scipy")

from calotype.bench.bd_rate import Curve
from calotype.bench.report import Exhibit, Version, report
from calotype.bench.results import METRICS, CodecInfo, Point, Published, Results, Timing
from calotype.bench.summary import BdRow, BdTable

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from playwright.sync_api import Page as BrowserPage

ODD = '<b>&"odd"'
SVG = '<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 5"><path d="M0 0L9 5"/></svg>'
SIZE_PX = (192, 128)
FACTOR = 3


def picture(seed: int) -> Image.Image:
    """A gradient with noise, so that every pixel of a difference matters."""
    noise = np.random.default_rng(seed).integers(0, 90, (SIZE_PX[1], SIZE_PX[0], 3))
    ramp = np.linspace(0, 160, SIZE_PX[0])[None, :, None]
    return Image.fromarray((ramp + noise).astype(np.uint8))


def point(codec: str, quality: float, psnr_db: float | None) -> Point:
    return Point("a.png", codec, quality, *SIZE_PX, 1000, 0.1 + quality / 50, psnr_db, 0.9, None, quality)


def exhibit(name: str, seed: int) -> Exhibit:
    versions = (
        Version("calotype", 36, 6144, 2.0, 31.25, picture(seed + 1)),
        Version(ODD, 40, 6100, 1.986, None, picture(seed + 2)),
    )
    return Exhibit(name, picture(seed), 2.0, versions)


EXHIBITS = [exhibit("a.png", 1), exhibit(ODD, 11)]


@pytest.fixture(scope="module")
def html() -> str:
    codecs = ("calotype", ODD, "PNG")
    results = Results(
        {"processor": ODD, "cores": "2"},
        tuple(CodecInfo(name, "settings of " + name, "1.0", name == "PNG") for name in codecs),
        (
            *(point(c, q, None if q == 90 else 30 + q / 10) for c in codecs[:2] for q in (10, 50, 90)),
            point("PNG", 100, None),
        ),
        tuple(
            Timing(name, 50, 0.7, psnr, 9, 10, 2, 20, 100, 90)
            for name, psnr in zip(codecs, (33.5, 4.25, None), strict=True)
        ),
        (Published("VTM", "a paper", Curve("VTM", (0.1, 0.2), (30, 33))),),
    )
    rows = (
        BdRow("calotype", (-12.5, None), (0.5, None), published=False),
        BdRow(ODD, (0.0, 104.0), (0.0, -2.0), published=False),
        BdRow("VTM (published)", (-40.0, 0.0), (1.5, 0.0), published=True),
        BdRow("JPEG", (9.0, None), (-0.25, None), published=False),
    )
    tables = {metric: BdTable(metric, title, (ODD, "VTM (published)"), rows) for metric, title in METRICS.items()}
    return report(results, tables, {"Curve of " + ODD: SVG, "Another": SVG}, EXHIBITS)


class Page(HTMLParser):
    """What a page asks for, its text, and the number of its tables."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.addresses: list[str] = re.findall(r"url\(([^)]*)\)", html)
        self.tags: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in {"src", "srcset", "href", "data"}]

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_asks_for_nothing_from_outside(html: str) -> None:
    addresses = Page(html).addresses
    assert len(addresses) >= 3
    assert all(address.startswith("data:") for address in addresses)
    assert "@import" not in html
    assert "default-src 'none'" in html


def test_names_are_escaped(html: str) -> None:
    page = Page(html)
    assert "b" not in page.tags
    assert page.text.count(ODD) > 10
    assert ODD not in html


def test_every_table_is_there(html: str) -> None:
    page = Page(html)
    assert page.tags.count("table") == len(METRICS) + 3
    numbers = ("\N{MINUS SIGN}12.5", "+104.0", "\N{MINUS SIGN}0.2500", "33.50")
    for words in (*METRICS.values(), *numbers, "VTM (published)", "a paper", "settings of PNG"):
        assert words in page.text, words
    assert page.text.count("36, 6,144 bytes, 2.000 bpp, 31.25 dB") == 2
    assert "1.986 bpp, exact" in page.text
    assert "3 codecs on 1 picture, as" in page.text


def test_a_run_with_nothing_but_points_has_a_page() -> None:
    results = Results({}, (CodecInfo("calotype", "", "1", lossless=False),), (point("calotype", 50, 35.0),))
    assert Page(report(results, {}, {}, [])).tags.count("table") == 1


@pytest.fixture(scope="module")
def browser() -> "Iterator[Browser]":
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        assert "CI" not in os.environ or sys.platform != "linux", f"none of {', '.join(names)} is installed"
        pytest.skip(f"none of {', '.join(names)} is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"], timeout=120_000)
        yield browser
        browser.close()


@pytest.fixture
def page(browser: "Browser", html: str, tmp_path: Path) -> "Iterator[BrowserPage]":
    """The page from a file; an error on its console fails the test."""
    file = tmp_path / "report.html"
    file.write_text(html, encoding="utf-8")
    complaints: list[str] = []
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    page.on("console", lambda message: message.type == "error" and complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.goto(file.as_uri())
    expect_pixels(page, "left", np.asarray(picture(2)))
    yield page
    page.close()
    assert not complaints


def expect_pixels(page: "BrowserPage", side: str, wanted: np.ndarray) -> None:
    """Wait until a canvas shows exactly these pixels: a few of them, far apart."""
    page.wait_for_function(
        """([side, places]) => {
            const context = document.querySelector(`canvas.${side}`).getContext("2d");
            return places.every(([x, y, ...rgb]) =>
                [...context.getImageData(x, y, 1, 1).data].join() === [...rgb, 255].join());
        }""",
        arg=[side, [[x, y, *wanted[y, x].tolist()] for x, y in ((0, 0), (17, 99), (96, 64), (191, 127))]],
    )


def style(page: "BrowserPage", name: str) -> float:
    value = page.eval_on_selector(".stage", f"stage => getComputedStyle(stage).getPropertyValue('{name}')")
    return float(value.rstrip("%"))


def test_tables_sort_by_number_or_text_with_what_is_missing_last(page: "BrowserPage") -> None:
    def click(table: int, column: int) -> list[str]:
        page.locator("table").nth(table).locator("thead button").nth(column).click()
        return page.locator("table").nth(table).locator("tbody th").all_inner_texts()

    assert click(0, 1) == ["VTM (published)", "calotype", ODD, "JPEG"]
    assert click(0, 1) == ["JPEG", ODD, "calotype", "VTM (published)"]
    assert click(0, 2) == ["VTM (published)", ODD, "JPEG", "calotype"]
    assert page.locator("table").first.locator("[aria-sort]").all_inner_texts() == ["VTM (published)"]
    speed = len(METRICS)
    assert click(speed, 3) == [ODD, "calotype", "PNG"]
    assert click(speed, 3) == ["calotype", ODD, "PNG"]
    assert click(speed, 0) == sorted(["calotype", ODD, "PNG"], key=str.lower)


def test_a_head_sorts_by_keyboard(page: "BrowserPage") -> None:
    head = page.locator("thead th").nth(1)
    head.locator("button").focus()
    page.keyboard.press("Enter")
    assert head.get_attribute("aria-sort") == "ascending"
    page.keyboard.press("Space")
    assert head.get_attribute("aria-sort") == "descending"


def test_the_line_moves_by_mouse_and_by_keyboard(page: "BrowserPage") -> None:
    handle, stage = page.locator(".handle"), page.locator(".stage")
    stage.scroll_into_view_if_needed()
    box = stage.bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + 30)
    page.mouse.up()
    page.mouse.move(box["x"] + box["width"], box["y"] + 30)
    assert handle.get_attribute("aria-valuenow") == "25"
    handle.focus()
    for key, value in {"ArrowRight": 26, "Shift+ArrowLeft": 16, "PageUp": 26, "End": 100, "Home": 0}.items():
        page.keyboard.press(key)
        assert handle.get_attribute("aria-valuenow") == str(value)
    assert style(page, "--split") == 0


def test_codecs_and_pictures_are_chosen(page: "BrowserPage") -> None:
    expect_pixels(page, "right", np.asarray(picture(3)))
    page.select_option("#left", ODD)
    expect_pixels(page, "left", np.asarray(picture(3)))
    page.select_option("#right", "original")
    expect_pixels(page, "right", np.asarray(picture(1)))
    assert page.locator(".sides .caption").all_inner_texts() == [
        "quality 40, 6,100 bytes, 1.986 bpp, exact",
        "192 \N{MULTIPLICATION SIGN} 128 pixels",
    ]
    page.select_option("#picture", "1")
    expect_pixels(page, "left", np.asarray(picture(13)))
    expect_pixels(page, "right", np.asarray(picture(11)))


def test_zoom_and_pan(page: "BrowserPage") -> None:
    page.click("[data-zoom='4']")
    assert page.locator("[aria-pressed='true']").all_inner_texts() == ["4\N{MULTIPLICATION SIGN}"]
    assert [style(page, name) for name in ("--zoom", "--x", "--y")] == [4, -150, -150]
    assert page.eval_on_selector("canvas.left", "canvas => getComputedStyle(canvas).imageRendering") == "pixelated"
    assert page.locator("canvas.left").bounding_box() == page.locator("canvas.right").bounding_box()

    box = page.locator(".stage").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 20, box["y"] + 20)
    page.mouse.down()
    page.mouse.move(box["x"] + 20 + box["width"] / 2, box["y"] + 20)
    page.mouse.up()
    assert [style(page, name) for name in ("--x", "--y")] == pytest.approx([-100, -150])
    assert style(page, "--split") == 50
    page.mouse.wheel(0, -100)
    page.wait_for_function("getComputedStyle(document.querySelector('.stage')).getPropertyValue('--zoom') > 5")
    page.click("[data-zoom='1']")
    assert [style(page, name) for name in ("--zoom", "--x", "--y")] == [1, 0, 0]


def test_the_difference_is_exact(page: "BrowserPage", tmp_path: Path) -> None:
    original, left, right = (np.asarray(picture(seed)).astype(int) for seed in (1, 2, 3))
    page.check("#difference")
    page.fill("#factor", str(FACTOR))
    expect_pixels(page, "left", np.minimum(FACTOR * abs(left - original), 255))
    expect_pixels(page, "right", np.minimum(FACTOR * abs(right - original), 255))
    assert page.locator("output").inner_text() == str(FACTOR)
    page.screenshot(path=tmp_path / "report.png", full_page=True)
    page.uncheck("#difference")
    expect_pixels(page, "left", left)

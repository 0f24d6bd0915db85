"""How a browser shows the report: at each width, light, dark and in print, by keyboard, and by axe-core."""

from pathlib import Path

import pytest
import torch

from fastadv.evaluation import report
from tests.browser import CHROMIUM, browser
from tests.evaluation.reports import table_of

AXE = Path(__file__).parents[2] / "build" / "axe" / "node_modules" / "axe-core" / "axe.min.js"
WIDE = "document.documentElement.scrollWidth"
JUDGED = "axe.run(%s).then(r => r.violations.map(v => v.id + ': ' + v.nodes.map(n => n.html).join(' ')))"
GROUND = "getComputedStyle(document.body).backgroundColor"
FOCUSED = "document.activeElement.className + document.activeElement.getAttribute('href')"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report with all parts and long names, in a browser."""
    if CHROMIUM is None:
        pytest.skip("no Chromium: on Debian, apt-get install chromium")
    folder = tmp_path_factory.mktemp("page")
    names = ["a class with a name of many words", *("x" * 40 for _ in range(9))]
    bounds = torch.full((30,), 0.01).double()
    told = {"command": "fastadv evaluate " + 30 * "--option value "}
    report(table_of(30), folder / "r.html", title="y" * 80, class_names=names, bounds=bounds, provenance=told)
    with browser(folder / "profile") as opened:
        opened.open(folder / "r.html")
        yield opened


@pytest.mark.slow
def test_at_each_width_light_dark_and_in_print(page):
    grounds = {}
    for width in (320, 768, 1920):
        page.resize(width)
        for scheme, media in (("light", "screen"), ("dark", "screen"), ("dark", "print")):
            page.show(scheme, media)
            assert page.run(WIDE) <= width, (width, scheme, media)
            grounds[scheme, media] = page.run(GROUND)
    assert grounds["light", "screen"] == grounds["dark", "print"] == "rgb(255, 255, 255)"
    assert grounds["dark", "screen"] == "rgb(21, 23, 26)"
    page.resize(680)  # what is left of A4
    page.show(media="print")
    assert page.run(WIDE) <= 680
    assert page.pdf().startswith(b"%PDF")
    assert page.complaints() == []


@pytest.mark.slow
def test_by_keyboard(page):
    page.show()
    for expected in ("skip#verdict", "#signs", "#attacks"):
        for kind in ("keyDown", "keyUp"):
            page.ask("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
        assert page.run(FOCUSED) == expected


@pytest.mark.slow
def test_axe_finds_nothing(page):
    if not AXE.exists():
        pytest.skip("no axe-core: npm install --no-save --prefix build/axe axe-core@4.14.1")
    page.run(f"{AXE.read_text()};0")
    page.resize(320)
    page.show()
    assert page.run(JUDGED % "") == []
    page.resize(1280)
    page.show("dark")
    assert page.run(JUDGED % "{runOnly: ['color-contrast']}") == []

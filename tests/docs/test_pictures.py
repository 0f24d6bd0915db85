"""The pictures of docs/figures say what made them."""

from pathlib import Path
from xml.etree import ElementTree

import pytest
from PIL import Image

from fastadv.evaluation.figures import style
from fastadv.runs.card import about, telling

FIGURES = Path(__file__).parents[2] / "docs" / "figures"
TOLD = {"command", "seed", "machine", "date"}


@pytest.mark.parametrize("path", sorted(FIGURES.glob("*.png")), ids=lambda path: path.stem)
def test_a_picture_is_small_and_tells_what_made_it(path):
    with Image.open(path) as picture:
        missing = TOLD - {name for name, text in picture.info.items() if text}
        assert picture.mode == "P", "run python docs/figures/small.py"
    assert not missing
    assert path.stat().st_size < 250_000


@pytest.mark.parametrize("path", sorted(FIGURES.glob("*.svg")), ids=lambda path: path.stem)
def test_a_recording_is_small_asks_no_server_and_tells_what_made_it(path):
    text = path.read_text()
    root = ElementTree.fromstring(text)
    assert len(text) < 60_000
    assert not [part for part in ("url(http", "href", "@import", "@font-face", "<script") if part in text]
    told = dict(part.split(": ", 1) for part in root[0].text.split("; "))
    assert told.keys() >= TOLD


def test_what_is_told_is_kept_in_the_picture(tmp_path):
    with telling(command="fastadv demo", seed=3):
        style.save(style.new_figure(1, 1), tmp_path / "a.png", {"date": "long ago"})
    with Image.open(tmp_path / "a.png") as picture:
        kept = {name: picture.info[name] for name in TOLD}
    assert kept == {
        "command": "fastadv demo", "seed": "3", "machine": about()["machine"], "date": "long ago",
    }  # fmt: skip
    assert not {"command", "seed"} & about().keys()

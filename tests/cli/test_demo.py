"""The demo in a tiny configuration: complete, repeatable, resumed, and careful with what others made."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from fastadv.data import construct
from fastadv.studies import SIZES


def figures(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text())["measured"]["nets"]


def test_demo_shows_six_nets_and_says_where_the_figures_are(fastadv: Callable, folder: Path) -> None:
    done = fastadv("demo --tiny --out d")
    assert done.code == 0, done
    for name in (
        "standard",
        "adversarial",
        "D_R",
        "D_NR",
        "D_rand",
        "D_det",
        "Ilyas et al. 2019",
        "CIFAR-10",
    ):
        assert name in done.out
    drawn = sorted((folder / "d" / "figures").iterdir())
    assert len(drawn) == 5
    for path in drawn:
        assert str(path.relative_to(folder)) in done.out
        assert path.read_bytes().startswith(b"\x89PNG")


def test_demo_is_repeatable_and_redone_when_finished(fastadv: Callable, folder: Path) -> None:
    first = json.loads(fastadv("demo --tiny --out d --json").out)["measured"]["nets"]
    weights = (folder / "d" / "nets" / "D_R" / "model.safetensors").stat().st_mtime_ns
    assert fastadv("demo --tiny --out d").code == 0
    assert figures(folder / "d") == first
    assert (folder / "d" / "nets" / "D_R" / "model.safetensors").stat().st_mtime_ns != weights


def test_demo_goes_on_after_a_stop(fastadv: Callable, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = json.loads(fastadv("demo --tiny --out whole --json").out)["measured"]["nets"]

    def stopped(*args: object, **kwargs: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(construct, "non_robust", stopped)
        done = fastadv("demo --tiny --out d")
    assert done.code == 130
    assert done.err.count("\n") == 1
    assert "kept in d" in done.err
    kept = (folder / "d" / "nets" / "standard" / "model.safetensors").stat().st_mtime_ns
    done = fastadv("demo --tiny --out d")
    assert done.code == 0
    assert "going on" in done.err
    assert (folder / "d" / "nets" / "standard" / "model.safetensors").stat().st_mtime_ns == kept
    assert figures(folder / "d") == whole


def test_demo_leaves_what_it_did_not_make(fastadv: Callable, folder: Path) -> None:
    (folder / "mine" / "nets").mkdir(parents=True)
    (folder / "mine" / "nets" / "precious").touch()
    done = fastadv("demo --tiny --out mine")
    assert done.code == 1
    assert "another folder" in done.err
    assert (folder / "mine" / "nets" / "precious").exists()
    shutil.rmtree(folder / "mine")


def test_every_size_has_its_settings() -> None:
    assert {size: settings.size for size, settings in SIZES.items()} == {8: 8, 10: 10, 16: 16, 28: 28}

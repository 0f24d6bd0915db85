"""`fastadv demo`: what it prints, writes and refuses."""

import json
from unittest.mock import Mock

import pytest

from fastadv.data import construct


def nets(folder):
    return json.loads((folder / "results.json").read_text())["measured"]["nets"]


@pytest.mark.slow
def test_it_shows_six_nets_and_goes_on_to_the_same_figures_when_stopped(
    fastadv, refused, folder, monkeypatch
):
    def weights():
        return (folder / "d" / "nets" / "standard" / "model.safetensors").stat().st_mtime_ns

    with monkeypatch.context() as patch:
        patch.setattr(construct, "non_robust", Mock(side_effect=KeyboardInterrupt))
        done = fastadv("demo --tiny --out d", code=130)
    assert done.err.count("\n") == 1
    assert "kept in d" in done.err
    kept = weights()
    assert not (folder / "d" / "results.json").exists()
    done = fastadv("demo --tiny --out d")
    assert weights() == kept
    shown = "standard", "adversarial", "D_R", "D_NR", "D_rand", "D_det", "Ilyas et al. 2019", "CIFAR-10"
    for name in shown:
        assert name in done.out
    drawn = sorted((folder / "d" / "figures").iterdir())
    assert len(drawn) == 5
    for path in drawn:
        assert str(path.relative_to(folder)) in done.out
        assert path.read_bytes().startswith(b"\x89PNG")
    first = nets(folder / "d")
    assert fastadv("demo --tiny --out d --json").json["measured"]["nets"] == nets(folder / "d") == first
    refused("demo --tiny --out d --seed 1", "choose another folder")

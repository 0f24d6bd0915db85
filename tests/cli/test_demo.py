"""The demo in a tiny configuration: complete, repeatable, resumed, and careful with what others made."""

import json

import pytest

from fastadv.data import construct


def figures(folder):
    return json.loads((folder / "results.json").read_text())["measured"]["nets"]


@pytest.mark.slow
def test_it_shows_six_nets_is_redone_when_finished_and_goes_on_to_the_same_figures_when_stopped(
    fastadv, folder, monkeypatch
):
    def weights():
        return (folder / "d" / "nets" / "standard" / "model.safetensors").stat().st_mtime_ns

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    done = fastadv("demo --tiny --out d")
    shown = "standard", "adversarial", "D_R", "D_NR", "D_rand", "D_det", "Ilyas et al. 2019", "CIFAR-10"
    for name in shown:
        assert name in done.out
    drawn = sorted((folder / "d" / "figures").iterdir())
    assert len(drawn) == 5
    for path in drawn:
        assert str(path.relative_to(folder)) in done.out
        assert path.read_bytes().startswith(b"\x89PNG")
    first, finished = figures(folder / "d"), weights()
    with monkeypatch.context() as patch:
        patch.setattr(construct, "non_robust", stopped)
        done = fastadv("demo --tiny --out d", code=130)
    assert done.err.count("\n") == 1
    assert "kept in d" in done.err
    kept = weights()
    assert kept != finished
    assert not (folder / "d" / "results.json").exists()
    done = fastadv("demo --tiny --out d --json")
    assert "resuming" in done.err
    assert weights() == kept
    assert done.json["measured"]["nets"] == figures(folder / "d") == first


def test_demo_leaves_what_it_did_not_make(fastadv, folder):
    (folder / "mine" / "nets").mkdir(parents=True)
    (folder / "mine" / "nets" / "precious").touch()
    assert "another folder" in fastadv("demo --tiny --out mine", code=2).err
    assert (folder / "mine" / "nets" / "precious").exists()

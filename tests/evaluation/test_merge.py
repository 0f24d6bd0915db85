"""Shares of an evaluation that were made apart become one; what is no whole is refused."""

from functools import partial
from pathlib import Path

import pytest

import fastadv as fa
from fastadv.errors import CorruptFileError, InputError
from fastadv.evaluation import merge
from tests.evaluation.nets import assert_same, nearest, run

REFUSED = {
    "a": "expected all 3 shares, got none of 1; run the command",
    "b": "expected all 3 shares, got none of 0, 2; run the command",
    "c b": "expected all 3 shares, got none of 0; run the command",
    "b a b": "expected each share once, got 1 in .*b, too",
    "a other": "another attacks",
    "a half": "expected a share of 3 of the same evaluation, got one of 2",
    "a nowhere b": "nowhere: expected a finished share of an evaluation, got none",
}


def test_shares_are_the_evaluation_of_one_process_and_less_is_refused(tmp_path: Path) -> None:
    for rank, name in enumerate("aba"):
        run(tmp_path / name, rank=rank, world_size=3, resume=rank == 2)
    run(tmp_path / "c", rank=2, world_size=3)
    run(tmp_path / "other", rank=1, world_size=3, attacks={"near": nearest})
    run(tmp_path / "half", rank=1, world_size=2)
    out = tmp_path / "out"
    for folders, said in REFUSED.items():
        with pytest.raises(InputError, match=said):
            merge([tmp_path / name for name in folders.split()], out)
    with pytest.raises(InputError, match="another attacks"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "other")
    assert not out.exists()
    assert merge([tmp_path / "b", tmp_path / "a"], out) == {"shares": 3, "files": 6}
    assert_same(run(out, resume=True), run(None))
    (tmp_path / "b" / "part-00001-01.safetensors").unlink()
    with pytest.raises(CorruptFileError, match=r"part-00001-01\..*: expected a part of this evaluation"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "a")


def test_shares_in_which_an_attack_refused_the_threat_become_one(tmp_path: Path) -> None:
    data, net = (
        fa.data.load("digits", "test", limit=8),
        fa.models.create("softmax", shape=(1, 8, 8), classes=10),
    )
    attacks = {"fgsm": fa.attacks.fgsm, "l0": partial(fa.attacks.sigma_zero, steps=2)}
    asked = {"threat": fa.Linf(0.1), "batch_size": 4}
    for rank in (0, 1):
        fa.evaluate(
            net, data, attacks, **asked, run_dir=tmp_path / "a", rank=rank, world_size=2, resume=rank > 0
        )
    merge([tmp_path / "a"], tmp_path / "out")
    whole = fa.evaluate(net, data, attacks, **asked, run_dir=tmp_path / "out", resume=True)
    assert whole["l0"].refused.startswith("threat: expected")
    assert not whole["fgsm"].refused

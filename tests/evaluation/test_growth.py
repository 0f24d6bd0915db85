"""An evaluation in a folder that grows: by attacks, by images, by both, in shares; what is there stays."""

from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError
from tests.evaluation import nets
from tests.evaluation.test_draws import Flips
from tests.evaluation.test_resume import Counting

OTHERS = {"pgd": nets.pgd(0.25), "fgsm": partial(fa.attacks.fgsm, threat=fa.Linf(0.15))}


def grown(attacks: list[str], counting: Counting) -> dict:
    return {name: counting if name == "near" else OTHERS[name] for name in attacks}


@pytest.mark.parametrize("order", [["pgd", "near"], ["near", "pgd"], ["fgsm", "near", "pgd"]])
@pytest.mark.parametrize("draws", [1, 3])
def test_attacks_are_added_anywhere_and_what_is_there_stays(tmp_path: Path, order: list[str], draws: int):
    """The table is that of a whole evaluation; of the folder, fewer attacks may be asked for."""
    settings = {"model": Flips(0.2) if draws > 1 else nets.Threshold(), "draws": draws}
    nets.run(tmp_path, attacks={"near": Counting()}, **settings)
    again = Counting()
    table = nets.run(tmp_path, attacks=grown(order, again), resume=True, **settings)
    assert again.calls == []
    whole = nets.run(None, attacks=grown(order, Counting()), **settings)
    nets.assert_same(table, whole)
    few = nets.run(tmp_path, attacks=grown(order[:1], again), resume=True, **settings)
    nets.assert_same(few, nets.run(None, attacks=grown(order[:1], Counting()), **settings))
    assert again.calls == []


def test_more_images_are_added_and_those_there_are_not_attacked_again(tmp_path: Path):
    first, more, last = Counting(), Counting(), Counting()
    nets.run(tmp_path, attacks={"near": first}, limit=3)
    table = nets.run(tmp_path, attacks=grown(["pgd", "near"], more), limit=5, resume=True)
    assert (first.calls, more.calls) == ([[0, 1], [2]], [[3, 4]])
    fresh = nets.run(None, attacks=grown(["pgd", "near"], Counting()), limit=5)
    torch.testing.assert_close(nets.contents(table)[0], nets.contents(fresh)[0], rtol=0, atol=0)
    whole = nets.run(tmp_path, attacks=grown(["near"], last), resume=True)
    assert last.calls == [[5]]
    nets.assert_same(whole, nets.run(None, attacks={"near": Counting()}))
    # back to what was there, but to nothing between
    nets.run(tmp_path, attacks={"near": last}, limit=3, resume=True)
    assert len(last.calls) == 1
    with pytest.raises(InputError, match=r"another limit= \(6 there, 4 here\)"):
        nets.run(tmp_path, attacks={"near": last}, limit=4, resume=True)


def test_a_longer_set_of_the_same_images_goes_on_and_one_of_others_is_refused(tmp_path: Path):
    x, y = nets.DATA.x, nets.DATA.y
    nets.run(tmp_path, attacks={"near": Counting()}, dataset=(x[:4], y[:4]))
    for others in ((x.flip(0), y.flip(0)), (x, 1 - y)):
        with pytest.raises(InputError, match="another dataset="):
            nets.run(tmp_path, attacks={"near": Counting()}, dataset=others, resume=True)
    more = Counting()
    table = nets.run(tmp_path, attacks={"near": more}, dataset=(x, y), resume=True)
    assert more.calls == [[4, 5]]
    nets.assert_same(table, nets.run(None, attacks={"near": Counting()}, dataset=(x, y)))


@pytest.mark.parametrize(("before", "by_class"), [(6, False), (20, True)])
def test_a_sorted_set_keeps_the_images_that_were_drawn(tmp_path: Path, before: int, by_class: bool):
    x = torch.linspace(0.05, 0.95, 100)
    data, more = nets.pixels(x.tolist(), (x > 0.5).long().tolist()), Counting()
    first = nets.run(tmp_path, attacks={"near": Counting()}, dataset=data, limit=before)
    assert by_class == bool((first.ids > 50).any())
    table = nets.run(tmp_path, attacks={"near": more}, dataset=data, limit=40, resume=True)
    assert sum(map(len, more.calls)) == 40 - before
    assert table.ids[:before].equal(first.ids)
    assert len(table.ids.unique()) == table.n == 40
    assert 12 <= int((table.ids > 50).sum()) <= 20
    again = nets.run(tmp_path, attacks={"near": more}, dataset=data, limit=40, resume=True)
    assert len(more.calls) == (40 - before) // 2
    nets.assert_same(again, table)


def test_how_much_work_there_is_decides_nothing_that_a_folder_refuses(tmp_path: Path):
    """An evaluation freezes a convolutional net by itself, from 4,096 steps times samples on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
        x = torch.rand(48, 1, 8, 8)
    small, large = (partial(fa.attacks.pgd, threat=fa.Linf(0.05), steps=steps) for steps in (2, 100))
    settings = {"model": net, "dataset": (x, net(x).argmax(1)), "batch_size": 32, "keep_samples": False}
    first = nets.run(tmp_path, attacks={"small": small}, limit=16, **settings)
    both = nets.run(tmp_path, attacks={"large": large, "small": small}, resume=True, **settings)
    assert both["small"].broken[:16].equal(first["small"].broken)
    for model in (fa.freeze(net), net):
        nets.run(tmp_path, attacks={"small": small}, resume=True, **settings | {"model": model})
    nets.run(tmp_path, attacks={"small": small}, resume=True, freeze=True, **settings)

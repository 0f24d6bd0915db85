"""An evaluation that is killed, resumed, or pointed at the folder of another."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import CorruptFileError, InputError
from fastadv.files import load_tensors, save_tensors
from tests.evaluation.nets import DATA, Threshold, assert_same, contents, nearest, pgd, pixels, run
from tests.evaluation.test_draws import Flips
from tests.processes import program, succeed
from tests.refusals import refuses


class Counting:
    """An attack that counts its calls and can stop at one of them."""

    def __init__(self, stop: int | None = None) -> None:
        self.calls, self.stop = [], stop

    def describe(self) -> str:
        return "nearest"

    def __call__(self, model, x, y, *, ids):
        if len(self.calls) == self.stop:
            raise KeyboardInterrupt
        self.calls.append(ids.tolist())
        return nearest(model, x, y, ids=ids)


@pytest.mark.slow
def test_a_kill_at_any_moment_is_resumed_bit_equal(tmp_path):
    # the identity, then two attacks on each of three batches
    moments = ["0-before", "0-after", "3-before", "6-before", "6-after"]
    succeed(program(tmp_path, "tests.evaluation.nets", str(tmp_path), *moments))
    expected = run(None)
    for moment in moments:
        folder = tmp_path / moment
        assert len(list(folder.glob(".*.part"))) == moment.endswith("before"), moment
        kept = len(list(folder.glob("part-*")))
        assert kept == max(0, int(moment.split("-")[0]) - moment.endswith("before")), moment
        assert_same(run(folder, resume=True), expected)
        assert not list(folder.glob(".*.part"))


@pytest.mark.slow
def test_samples_are_kept_from_parts_that_were_made_without(tmp_path):
    run(tmp_path, keep_samples=False)
    assert_same(run(tmp_path, resume=True), run(None))
    kept, _ = load_tensors(tmp_path / "indicators.safetensors")  # those of this verdict alone are read
    assert kept["correct"].tolist() == [True] * 4 + [False] * 2


@pytest.mark.slow
def test_a_folder_is_refused_without_resume_and_resume_without_a_folder(tmp_path):
    run(tmp_path)
    refuses("resume=True", run, tmp_path)
    refuses("resume: expected the run_dir", run, None, resume=True)
    assert_same(run(tmp_path / "new", resume=True), run(None))


@pytest.mark.slow
def test_another_evaluation_is_refused_and_told_by_what(tmp_path):
    run(tmp_path)
    model = Threshold()
    model.weight.data *= 2
    for options, named in (
        ({"batch_size": 3}, r"batch_size \(2 there, 3 here\)"),
        ({"limit": 4}, r"limit \(6 there, 4 here\)"),
        ({"attacks": {"near": nearest, "pgd": pgd(0.26)}}, "attacks.pgd.step_size .*.threat"),
        ({"attacks": {"pgd": partial(pgd(0.25), steps=6)}}, r"attacks.pgd.steps \(5 there, 6 here\)"),
        ({"attacks": {"pgd": nearest}}, "attacks.pgd "),
        ({"attacks": {"near": partial(nearest, past=0.02), "pgd": pgd(0.25)}}, "attacks.near.func "),
        ({"model": model}, "model.weights"),
        ({"model": nn.Sequential(Threshold())}, "model.parts"),
        ({"model": fa.freeze(Threshold(), "bf16")}, r"search.precision \(fp32 there, bf16 here\)"),
        ({"draws": 3}, r"draws \(None there, 3 here\)"),
        ({"identity": "v2"}, "identity "),
        ({"dataset": pixels([0.4, 0.7, 0.2, 0.9, 0.3, 0.65], [0, 1, 0, 1, 1, 0])}, "dataset="),
        ({"dataset": pixels([0.4, 0.7, 0.2, 0.9, 0.3, 0.6], [0, 1, 1, 1, 1, 0])}, "dataset="),
    ):
        refuses(f"another {named}", run, tmp_path, resume=True, **options)


def test_a_model_is_known_by_its_answers_which_count_nothing_and_draw_nothing(tmp_path):
    """Parts and weights are the same; a closure, as a preprocessing, is another."""

    def scaled(by: float, noise: float = 0.0) -> nn.Module:
        class Scaled(Threshold):
            def forward(self, x):
                return super().forward(by * x + (noise * torch.rand_like(x) if noise else 0))

        return Scaled()

    state = torch.get_rng_state()
    first = run(tmp_path / "a", model=scaled(1.0))
    assert torch.equal(torch.get_rng_state(), state)
    assert_same(first, run(None, model=scaled(1.0)))
    with pytest.raises(InputError, match="another model's answer to the first samples"):
        run(tmp_path / "a", model=scaled(1.1), resume=True)
    for _ in range(2):
        run(tmp_path / "random", model=scaled(1.0, 0.01), resume=True)
    refuses("another model's answer", run, tmp_path / "random", model=scaled(1.0, 0.3), resume=True)
    run(tmp_path / "named", model=scaled(1.0), identity="v1")
    run(tmp_path / "named", model=scaled(1.1), identity="v1", resume=True)


def changed(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    part, told = load_tensors(path)
    change(part)
    save_tensors(path, part, told)


@pytest.mark.slow
def test_a_part_that_is_damaged_is_named_and_one_of_another_verdict_made_again(tmp_path):
    """The second is as where the model is randomized: what is broken must have been right."""
    first = run(tmp_path)
    path = tmp_path / "part-00000-00.safetensors"
    changed(path, lambda part: part.update({name: ~part[name] for name in ("correct", "broken")}))
    assert_same(run(tmp_path, resume=True), first)
    # the seconds of what was done before are counted
    changed(path, lambda part: part["seconds"].add_(1000))
    again = run(tmp_path, resume=True)
    assert again.seconds > 1000
    assert again.rows[1].seconds == first.rows[1].seconds
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="part-00000-00"):
        run(tmp_path, resume=True)


@pytest.mark.slow
def test_what_is_done_so_far_is_told_also_when_resumed(tmp_path):
    told = []
    table = run(tmp_path, on_event=told.append)
    # two of each batch of two samples; the last two samples are wrong already
    assert [(at["step"], at["attack"]) for at in told] == [(n, a) for n in (2, 4, 6) for a in ("near", "pgd")]
    assert [one["clean_accuracy"] for one in told] == [1, 1, 1, 1, 4 / 6, 4 / 6]
    # PGD has 0.25: of the distances 0.1 to 0.4 it reaches the first two
    assert [one["robust_accuracy"] for one in told if one["attack"] == "pgd"] == [
        {"pgd": 0}, {"pgd": 2 / 4}, {"pgd": 2 / 6}
    ]  # fmt: skip
    for row, last in zip(table.rows, told[-2:], strict=True):
        assert last["robust_accuracy"] == {row.name: row.robust_accuracy}
        assert last["seconds"] == {row.name: pytest.approx(row.seconds)}
    again = []
    run(tmp_path, resume=True, on_event=again.append)
    assert again == told
    refuses("on_event: expected a function of a dictionary, got str", run, None, on_event="log.csv")


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, {"draws": 2, "model": Flips(0.2)}])
def test_a_row_of_another_name_is_measured_and_what_is_there_stays(tmp_path: Path, options: dict):
    settings = {"attacks": "fgsm", "batch_size": 6, "indicators": False, **options}
    for radii, parts in (([0.15], 1), ([0.15, 0.25], 3), ([0.25, 0.15], 3), ([0.35, 0.25], 4)):
        settings["threat"] = [fa.Linf(radius) for radius in radii]
        table = run(tmp_path, resume=True, **settings)
        assert [f"{row.threat.radius:g}" for row in table.rows] == [f"{radius:g}" for radius in radii]
        assert_same(table, run(None, **settings))
        assert len(list(tmp_path.glob("part-*"))) == parts


def test_more_images_are_added_and_those_there_are_not_attacked_again(tmp_path: Path):
    first, more, last = Counting(), Counting(), Counting()
    once = partial(run, threat=fa.Linf(0.25))
    once(tmp_path, attacks={"near": first}, limit=3)
    table = once(tmp_path, attacks={"pgd": pgd(0.25), "near": more}, limit=5, resume=True)
    assert (first.calls, more.calls) == ([[0, 1], [2]], [[3, 4]])
    fresh = once(None, attacks={"pgd": pgd(0.25), "near": Counting()}, limit=5)
    torch.testing.assert_close(contents(table)[0], contents(fresh)[0], rtol=0, atol=0)
    whole = once(tmp_path, attacks={"near": last}, resume=True)
    assert last.calls == [[5]]
    assert_same(whole, once(None, attacks={"near": Counting()}))
    # back to what was there, but to nothing between
    once(tmp_path, attacks={"near": last}, limit=3, resume=True)
    assert len(last.calls) == 1
    fewer = {"attacks": {"near": last}, "limit": 4, "resume": True}
    refuses(r"another limit \(6 there, 4 here\)", once, tmp_path, **fewer)


def test_a_longer_set_of_the_same_images_goes_on_and_one_of_others_is_refused(tmp_path: Path):
    x, y = DATA.x, DATA.y
    run(tmp_path, attacks={"near": Counting()}, dataset=(x[:4], y[:4]))
    for others, named in (((x.flip(0), y.flip(0)), "model's answer to the first"), ((x, 1 - y), "dataset=")):
        refuses(f"another {named}", run, tmp_path, attacks={"near": Counting()}, dataset=others, resume=True)
    more = Counting()
    table = run(tmp_path, attacks={"near": more}, dataset=(x, y), resume=True)
    assert more.calls == [[4, 5]]
    assert_same(table, run(None, attacks={"near": Counting()}, dataset=(x, y)))


@pytest.mark.slow
@pytest.mark.parametrize(("before", "by_class"), [(6, False), (40, True)])
def test_a_sorted_set_keeps_the_images_that_were_drawn(tmp_path: Path, before: int, by_class: bool):
    low = torch.linspace(0.05, 0.45, 70)
    x = torch.cat([low[:40], torch.stack([low[40:], 1 - low[40:]], 1).flatten()])  # six do not show it
    data, more = pixels(x.tolist(), (x > 0.5).long().tolist()), Counting()
    first = run(tmp_path, attacks={"near": Counting()}, dataset=data, limit=before)
    assert by_class == bool((first.ids > 50).any())
    table = run(tmp_path, attacks={"near": more}, dataset=data, limit=80, resume=True)
    assert sum(map(len, more.calls)) == 80 - before
    assert table.ids[:before].equal(first.ids)
    assert len(table.ids.unique()) == table.n == 80
    assert 20 <= int((x[table.ids] > 0.5).sum()) <= 28
    again = run(tmp_path, attacks={"near": more}, dataset=data, limit=80, resume=True)
    assert len(more.calls) == (80 - before) // 2
    assert_same(again, table)


@pytest.mark.slow
def test_how_much_work_there_is_decides_nothing_that_a_folder_refuses(tmp_path: Path):
    """An evaluation freezes a convolutional net by itself, from 4,096 steps times samples on."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)).eval()
        x = torch.rand(48, 1, 8, 8)
    small, large = (partial(fa.attacks.pgd, threat=fa.Linf(0.05), steps=steps) for steps in (2, 100))
    settings = {"model": net, "dataset": (x, net(x).argmax(1)), "batch_size": 32, "keep_samples": False}
    first = run(tmp_path, attacks={"small": small}, limit=16, **settings)
    both = run(tmp_path, attacks={"large": large, "small": small}, resume=True, **settings)
    assert both["small"].broken[:16].equal(first["small"].broken)
    for model in (fa.freeze(net), net):
        run(tmp_path, attacks={"small": small}, resume=True, **settings | {"model": model})
    run(tmp_path, attacks={"small": small}, resume=True, freeze=True, **settings)

"""An evaluation that is killed, resumed, or pointed at the folder of another."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn

from fastadv.errors import CorruptFileError, InputError
from fastadv.runs.files import load_tensors, save_tensors
from tests.evaluation import nets
from tests.evaluation.nets import assert_same
from tests.processes import program, succeed


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
        return nets.nearest(model, x, y, ids=ids)


@pytest.mark.slow
def test_a_kill_at_any_moment_is_resumed_bit_equal(tmp_path):
    # the identity, then two attacks on each of three batches
    moments = ["0-before", "0-after", "3-before", "6-before", "6-after"]
    succeed(program(tmp_path, "tests.evaluation.nets", str(tmp_path), *moments))
    expected = nets.run(None)
    for moment in moments:
        folder = tmp_path / moment
        assert len(list(folder.glob(".*.part"))) == moment.endswith("before"), moment
        kept = len(list(folder.glob("part-*")))
        assert kept == max(0, int(moment.split("-")[0]) - moment.endswith("before")), moment
        assert_same(nets.run(folder, resume=True), expected)
        assert not list(folder.glob(".*.part"))


@pytest.mark.slow
def test_samples_are_kept_from_parts_that_were_made_without_and_a_share_has_no_verdict(tmp_path):
    share = nets.run(tmp_path, keep_samples=False, rank=1, world_size=3)
    assert share.indicators is None
    assert "not the first samples, but one process's share, or" in str(share)
    assert_same(nets.run(tmp_path, resume=True), nets.run(None))
    kept, _ = load_tensors(tmp_path / "indicators.safetensors")  # those of this verdict alone are read
    assert kept["correct"].tolist() == [True] * 4 + [False] * 2


@pytest.mark.slow
def test_a_folder_is_refused_without_resume_and_resume_without_a_folder(tmp_path):
    nets.run(tmp_path)
    with pytest.raises(InputError, match="resume=True"):
        nets.run(tmp_path)
    with pytest.raises(InputError, match="resume: expected the run_dir"):
        nets.run(None, resume=True)
    assert_same(nets.run(tmp_path / "new", resume=True), nets.run(None))


@pytest.mark.slow
def test_another_evaluation_is_refused_and_told_by_what(tmp_path):
    nets.run(tmp_path)
    model = nets.Threshold()
    model.weight.data *= 2
    for options, named in (
        ({"batch_size": 3}, r"batch_size= \(2 there, 3 here\)"),
        ({"limit": 4}, r"limit= \(6 there, 4 here\)"),
        ({"attacks": {"near": nets.nearest, "pgd": nets.pgd(0.26)}}, "step_size= of 'pgd'.*threat= of 'pgd'"),
        ({"attacks": {"pgd": partial(nets.pgd(0.25), steps=6)}}, r"steps= of 'pgd' \(5 there, 6 here\)"),
        ({"attacks": {"pgd": nets.nearest}}, "attack by the name 'pgd'"),
        ({"attacks": {"near": partial(nets.nearest, past=0.02), "pgd": nets.pgd(0.25)}}, ".*'near'"),
        ({"model": model}, r"model \(the model's weights\)"),
        ({"model": nn.Sequential(nets.Threshold())}, r"model \(the model's code"),
        ({"precision": "bf16"}, r"precision= \(fp32 there, bf16 here\)"),
        ({"draws": 3}, r"draws= \(not given there, 3 here\)"),
        ({"identity": "v2"}, "identity="),
        ({"dataset": nets.pixels([0.4, 0.7, 0.2, 0.9, 0.3, 0.65], [0, 1, 0, 1, 1, 0])}, "dataset="),
        ({"dataset": nets.pixels([0.4, 0.7, 0.2, 0.9, 0.3, 0.6], [0, 1, 1, 1, 1, 0])}, "dataset="),
    ):
        with pytest.raises(InputError, match=f"another {named}") as refused:
            nets.run(tmp_path, resume=True, **options)
        assert "[" not in str(refused.value).replace(str(tmp_path), "")  # places of JSON are no words


def changed(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Write a part again, whole, after a change of its tensors."""
    part, told = load_tensors(path)
    change(part)
    save_tensors(path, part, told)


@pytest.mark.slow
def test_a_part_that_is_damaged_is_named_and_one_of_another_verdict_made_again(tmp_path):
    """The second is as where the model is randomized: what is broken must have been right."""
    first = nets.run(tmp_path)
    path = tmp_path / "part-00000-00.safetensors"
    changed(path, lambda part: part.update({name: ~part[name] for name in ("correct", "broken")}))
    assert_same(nets.run(tmp_path, resume=True), first)
    # the seconds of what was done before are counted
    changed(path, lambda part: part["seconds"].add_(1000))
    again = nets.run(tmp_path, resume=True)
    assert again.seconds > 1000
    assert again.rows[1].seconds == first.rows[1].seconds
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match="part-00000-00"):
        nets.run(tmp_path, resume=True)


@pytest.mark.slow
def test_what_is_done_so_far_is_told_also_when_resumed(tmp_path):
    told = []
    table = nets.run(tmp_path, on_event=told.append)
    # two of each batch of two samples; the last two samples are wrong already
    assert [(one["step"], one["attack"]) for one in told] == [
        (n, a) for n in (2, 4, 6) for a in ("near", "pgd")
    ]
    assert [one["clean_accuracy"] for one in told] == [1, 1, 1, 1, 4 / 6, 4 / 6]
    # PGD has 0.25: of the distances 0.1 to 0.4 it reaches the first two
    assert [one["robust_accuracy"] for one in told if one["attack"] == "pgd"] == [
        {"pgd": 0}, {"pgd": 2 / 4}, {"pgd": 2 / 6}
    ]  # fmt: skip
    for row, last in zip(table.rows, told[-2:], strict=True):
        assert last["robust_accuracy"] == {row.name: row.robust_accuracy}
        assert last["seconds"] == {row.name: pytest.approx(row.seconds)}
    again = []
    nets.run(tmp_path, resume=True, on_event=again.append)
    assert again == told
    with pytest.raises(InputError, match="on_event: expected a function of a dictionary, got str"):
        nets.run(None, on_event="log.csv")

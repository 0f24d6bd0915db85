"""Certified radii of a data set: those of the model, in parts, in shares, and again from a folder."""

import pytest
import torch

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.errors import InputError
from fastadv.evaluation import lower_bounds, merge
from tests.models.abs.nets import images, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def bounded():
    model = tiny(steps=5)
    x, y = images(model, 7)
    return model, ImageSet(x, y, ("a", "b", "c"), "drawn"), {"norm": "linf", "starts": 2, "batch_size": 3}


def test_radii_are_the_models_own_whoever_bounds_them(bounded, tmp_path, monkeypatch):
    model, dataset, options = bounded
    x, y = dataset.x, dataset.y
    expected = model.lower_bound(x, y, norm="linf", starts=2)
    assert len(expected[expected > 0].unique()) > 3
    ticks = []
    radii = lower_bounds(model, dataset, **options, progress=lambda *at: ticks.append(at))
    torch.testing.assert_close(radii, expected, rtol=1e-4, atol=1e-6)  # other batches, other sums
    assert ticks == [(0, 7), (3, 7), (6, 7), (7, 7)]
    for rank, rows in ((1, [3, 4, 5]), (0, [0, 1, 2, 6])):
        own = lower_bounds(
            model, dataset, **options, run_dir=tmp_path / "a", resume=True, rank=rank, world_size=2
        )
        assert torch.equal(own, radii[rows])
    assert merge([tmp_path / "a"], tmp_path / "b") == {"shares": 2, "files": 3}
    monkeypatch.setattr(fa.models.ABS, "lower_bound", None)
    assert torch.equal(lower_bounds(model, dataset, **options, run_dir=tmp_path / "b", resume=True), radii)


def test_a_share_that_stops_loses_the_batch_at_work_alone(bounded, tmp_path, monkeypatch):
    model, dataset, options = bounded
    share = {"run_dir": tmp_path / "run", "resume": True, "rank": 0, "world_size": 2}
    expected, calls, bound = (
        lower_bounds(model, dataset, **options)[[0, 1, 2, 6]],
        [],
        fa.models.ABS.lower_bound,
    )

    def stopping(own, x, y, **more):
        calls.append(len(x))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return bound(own, x, y, **more)

    monkeypatch.setattr(fa.models.ABS, "lower_bound", stopping)
    with pytest.raises(KeyboardInterrupt):
        lower_bounds(model, dataset, **options, **share)
    with pytest.raises(InputError, match="expected a finished share of an evaluation, got none"):
        merge([tmp_path / "run"], tmp_path / "whole")
    assert torch.equal(lower_bounds(model, dataset, **options, **share), expected)
    assert calls == [3, 1, 1]


@pytest.mark.parametrize(
    ("wrong", "says"),
    [({"model": torch.nn.Identity()}, "model: expected an ABS"), ({"batch_size": 0}, "batch_size"),
     ({"resume": True}, "resume: expected a run_dir"), ({"rank": 0}, "run_dir: expected a folder"),
     ({"norm": "l0"}, "norm: expected l2, linf"), ({"starts": 0}, "starts")],
    ids=str,
)  # fmt: skip
def test_wrong_arguments_are_named(bounded, wrong, says):
    model, dataset, options = bounded
    with pytest.raises(InputError, match=says):
        lower_bounds(**{"model": model, "dataset": dataset, **options, **wrong})

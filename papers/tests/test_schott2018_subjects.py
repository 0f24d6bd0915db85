"""The models of the study: the published ones as published, and the adversarially trained net."""

import pytest
import torch

import fastadv as fa
from papers.schott2018 import subjects
from papers.schott2018.subjects import SEARCH, NearestNeighbor, Subjects


@pytest.fixture
def ramp(monkeypatch):
    stages = ("ramp1", 0.05, 0.02, 1, "constant"), ("robust", 0.1, 0.04, 2, "cosine")
    monkeypatch.setattr(subjects, "RAMP", stages)


def digits(count=40):
    return fa.data.load("digits", "train", limit=count)


@pytest.mark.slow
def test_the_ramp_trains_run_after_run_and_goes_on(ramp, tmp_path):
    told = []
    model = subjects.train_madry(digits(), tmp_path, lambda what, done, total: told.append(what))
    assert not model.training
    assert [what.split()[-1] for what in dict.fromkeys(told)] == ["ramp1", "robust"]
    told.clear()
    again = subjects.train_madry(digits(), tmp_path, lambda what, done, total: told.append(what))
    assert told == []
    first, last = (
        fa.models.read_weights(tmp_path / name / "model.safetensors")[0] for name in ("ramp1", "robust")
    )
    for name, ours in model.state_dict().items():
        assert torch.equal(ours, again.state_dict()[name])
        assert torch.equal(ours, last[name])
    # the second run started where the first ended: three epochs are too few to forget it
    away = torch.cat([(last[name] - first[name]).flatten() for name in first]).abs().mean()
    assert 0 < away < 0.02


@pytest.mark.slow
def test_published_models_read_digits(shared_data, tmp_path):
    made = Subjects(shared_data.abs_official, tmp_path, data_dir=shared_data.data_dir)
    test = fa.data.load("mnist", "test", data_dir=shared_data.data_dir, limit=5)
    x, y = next(fa.data.batches(test, 5))[:2]
    names = ("cnn", "binary_cnn", "transfer_cnn", "abs", "binary_abs")
    made.check([*names, "madry"])
    for name in names:
        subject = made[name]
        assert subject is made[name]
        assert subject.name == name
        assert (subject.threshold is not None) == name.startswith("binary")
        assert (fa.freeze(subject.model).verdict(x).argmax(1) == y).float().mean() >= 0.9
        if name.endswith("abs"):
            assert (fa.freeze(subject.attacked()).verdict(x).argmax(1) == y).float().mean() >= 0.9
        else:
            assert subject.attacked() is subject.model
    assert len({str(made[name].identity) for name in names}) == len(names)
    plain = made["abs"]
    assert {**vars(plain.attacked().options), **SEARCH} == vars(plain.attacked().options)
    assert plain.model.options.steps == 50
    assert plain.model.options.precision == "fp32"
    assert plain.attacked(input_grad="unrolled").options.input_grad == "unrolled"
    assert made["binary_abs"].attacked().options.binary
    assert not plain.model.options.binary


def test_nearest_neighbors_are_those_of_each_class_and_gradients_point_to_them():
    g = torch.Generator().manual_seed(0)
    x, y = torch.rand(40, 1, 5, 5, generator=g), torch.arange(40) % 3
    y[5:9] = 1  # classes of unequal size
    model, z = NearestNeighbor(x, y), torch.rand(7, 1, 5, 5, generator=g)
    distance = (z[:, None] - x).flatten(2).norm(dim=2)
    expected = torch.stack([distance[:, y == k].amin(1) for k in range(3)], 1)
    torch.testing.assert_close(model(z), -expected)
    leaf = (x[:4] + 0.01).requires_grad_()
    (gradient,) = torch.autograd.grad(model(leaf)[:, 0].sum(), leaf)
    torch.testing.assert_close(gradient.flatten(1).norm(dim=1), torch.ones(4))

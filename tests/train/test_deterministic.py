"""deterministic=True in one process; several are compared in tests/train/processes/test_exact.py."""

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.errors import InputError
from fastadv.train import AWP, IKL, Execution, FreeTraining, NuAT, PGDTraining, Standard, fit

from .nets import grouped, images
from .processes.worker import Doubled


def plain(*more: nn.Module) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Conv2d(1, 4, 3), *more, nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))


def train(model, recipe=None, **options):
    settings = {"epochs": 1, "batch_size": 20, "deterministic": True} | options
    return fit(model, images(), recipe or Standard(), **grouped(**settings))


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        PGDTraining(fa.Linf(0.1), 2, weight=0.5), FreeTraining(fa.Linf(0.1), 2), AWP(Standard(0.1), 0.01),
        NuAT(fa.Linf(0.1), rise=1), IKL(fa.Linf(0.1), 2),
    ],
    ids=["pgd", "free", "awp", "nuat", "ikl"],
)  # fmt: skip
def test_it_is_the_same_training_to_rounding(recipe):
    exact, other = plain().double(), plain().double()
    options = {"batch_size": 19, "clip_norm": 0.5, "ema": 0.9}
    past = train(Doubled(exact), recipe, **options)
    plainly = train(Doubled(other), recipe, deterministic=False, **options)
    torch.testing.assert_close(exact.state_dict(), other.state_dict(), rtol=1e-9, atol=1e-9)
    assert [each.loss for each in past] == pytest.approx([each.loss for each in plainly], abs=1e-9)


def test_parts_are_contiguous_and_what_torch_draws_differs_between_parts_and_passes():
    """Kernels may choose another algorithm for strided rows."""
    drawn = []

    def noted(model, x, y, *, ids, seed):
        assert x.is_contiguous()
        drawn.append(torch.rand(4))
        return Standard()(model, x, y)

    train(plain(), AWP(noted), batch_size=50)
    assert len(drawn) == 16  # 8 parts, twice
    assert len(torch.stack(drawn).unique(dim=0)) == 16


@pytest.fixture
def any_kernels(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    before = torch.are_deterministic_algorithms_enabled()
    warned = torch.is_deterministic_algorithms_warn_only_enabled()
    torch.use_deterministic_algorithms(False)
    yield
    torch.use_deterministic_algorithms(before, warn_only=warned)


def kernels():
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    return torch.are_deterministic_algorithms_enabled(), warns, torch.backends.cudnn.benchmark


def test_kernels_are_deterministic_while_it_computes_and_not_between(any_kernels):
    seen, outside = [], []

    def noting(model, x, y, *, ids, seed):
        seen.append(kernels())
        return Standard()(model, x, y)

    def attack(model, x, y, **options):
        seen.append(kernels())
        return fa.attacks.fgsm(model, x, y, fa.Linf(0.02), **options)

    training = fa.train.epochs(
        plain(), images(), noting, epochs=2, execution=Execution(deterministic=True), test_set=images(4),
        test_attacks={"fgsm": attack}, progress=lambda done, total: outside.append(kernels()),
    )  # fmt: skip
    next(training)
    outside.append(kernels())
    training.close()
    assert seen == [(True, False, False)] * 8 + [(True, True, False)]
    assert outside == [(False, False, True)] * 2


class Counting(nn.Module):
    """Writes into a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        if self.training:
            self.passes += 1
        return x


class Standardized(nn.Module):
    """Statistics of the batch that no module tells of."""

    def forward(self, x):
        return nn.functional.batch_norm(x, None, None, training=True)


REFUSED = {
    "batch_norm": (nn.BatchNorm2d(4), r"expected a network in which samples pass on their own.* in 1; "),
    "sync": (nn.SyncBatchNorm(4), r"statistics of the batch in 1; set BatchNorm to eval mode"),
    "untracked": (nn.BatchNorm2d(4, track_running_stats=False).eval(), "statistics of the batch in 1"),
    "instance": (nn.InstanceNorm2d(4, track_running_stats=True), "statistics of the batch in 1"),
    "buffer": (Counting(), r"writes into its buffer 1\.passes"),
    "function": (Standardized(), "got batch_norm in train mode"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("training", [True, False])
def test_what_mixes_samples_is_refused(name, training):
    part, message = REFUSED[name]
    model = plain(part)
    model.training = training  # the part keeps its own mode
    with pytest.raises(InputError, match=message):
        train(model)


@pytest.mark.slow
def test_batch_norm_in_eval_mode_and_other_norms_are_trained():
    norms = nn.BatchNorm2d(4).eval(), nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.LocalResponseNorm(2)
    model = plain(*norms)
    model[2].register_buffer("missing", torch.tensor([float("nan")]))
    before = model[0].weight.clone()
    train(model)
    assert not torch.equal(before, model[0].weight)


@pytest.mark.parametrize("gives", ["gradient", "report"])
def test_a_step_on_the_whole_batch_is_refused(gives):
    class Whole:
        def step(self, at):
            each = at.each(lambda part: Standard()(part.model, part.x, part.y))
            at.backward(Standard()(at.model, at.x, at.y) if gives == "gradient" else each)
            at.descend()
            return torch.stack(each).mean() if gives == "report" else each

    with pytest.raises(InputError, match=r"expected the losses of 8 parts .* got 1; take them with at\.each"):
        train(plain(), Whole())
    train(plain(), Whole(), deterministic=False)


@pytest.mark.slow
def test_a_run_is_resumed_as_it_was(tmp_path, monkeypatch):
    options = {"run_dir": tmp_path, "schedule": "constant"}
    train(plain(), **options)
    with pytest.raises(
        InputError, match=r"another deterministic \(\{'parts': 8, 'threads': \d+\} there, None"
    ):
        train(plain(), deterministic=False, resume=True, **options)
    threads = torch.get_num_threads()
    assert len(train(plain(), resume=True, **options | {"epochs": 2})) == 1
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    with pytest.raises(InputError, match="another deterministic"):
        train(plain(), resume=True, **options)
    with pytest.raises(InputError, match="deterministic: expected True or False, got 1"):
        train(plain(), deterministic=1)

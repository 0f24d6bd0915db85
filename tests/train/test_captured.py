"""Steps from CUDA graphs train as steps that run as they are, to the bit, and read no value."""

from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv import rng
from fastadv.train import (
    AWP,
    TRADES,
    Execution,
    FastTraining,
    Optimization,
    PGDTraining,
    Standard,
    _steps,
    epochs,
    fit,
)
from tests import recorded
from tests.train.nets import assert_same, images, net, stopped

THREAT = fa.Linf(0.1)
PGD = PGDTraining(THREAT, steps=2)
ALL = Optimization(ema=0.9, clip_norm=0.5, max_norm=1.0, warm_up=0.5, norm_decay=False)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@pytest.fixture
def captured(monkeypatch):
    monkeypatch.setattr(_steps, "LEAST", 3)
    return recorded.as_on_a_gpu(monkeypatch)


def trained(recipe, cuda_graph=None, **options):
    model, execution = net(), Execution(cuda_graph=cuda_graph, **options.pop("execution", {}))
    options = {"epochs": 2, "batch_size": 12, "augment": "crop_flip", "optimization": ALL} | options
    run = epochs(model, images(), recipe, execution=execution, **options)
    losses = [report.loss for report in run]
    return model, (losses, run.averaged() if options["optimization"].ema else None)


CASES = {
    "standard": {"recipe": Standard()},
    "pgd of many steps": {"recipe": PGDTraining(fa.L2(0.5), steps=12), "optimizer": "adam"},
    "pgd in two norms": {"recipe": PGDTraining([THREAT, fa.L2(0.5)], steps=2), "optimizer": "nesterov"},
    "fast": {"recipe": FastTraining(THREAT), "optimizer": "adamw", "execution": {"precision": "bf16"}},
    "trades": {"recipe": TRADES(THREAT, steps=2)},
    "ramp": {"recipe": PGD, "optimization": Optimization(ramp=1, batch_norm_momentum=0.3, momentum=0.0)},
}


@pytest.mark.parametrize("case", CASES)
def test_a_run_is_the_same_from_graphs(case, captured):
    expected, wanted = trained(cuda_graph=False, **CASES[case])
    assert not captured
    model, results = trained(**CASES[case])
    assert_same(model, expected)
    torch.testing.assert_close(results, wanted, rtol=0, atol=0)
    assert len(captured) == 2  # one for each epoch


@pytest.mark.parametrize("stop", [3, 8])
def test_a_run_goes_on_where_it_stopped(stop, captured, tmp_path):
    """After a capture, and amid replays of the next epoch, with another optimizer state each."""
    options = {"optimizer": "adam", "run_dir": tmp_path, "execution": {"checkpoint_every": 1}}
    expected, _ = trained(PGD, optimizer="adam")
    stopped(stop, trained, PGD, **options)
    model, _ = trained(PGD, resume=True, **options)
    assert_same(model, expected)


class Odd(nn.Module):
    """A classifier that does, in its forward, what a graph would not repeat."""

    def __init__(self, kind):
        super().__init__()
        self.kind, self.calls, self.inner = kind, 0, net()

    def forward(self, x):
        logits = self.inner(x)
        if not self.training:
            return logits
        if self.kind == "counts":
            self.calls += 1
        if self.kind == "python":
            logits = logits * (1 + rng.random.random())
        if self.kind == "reads":
            logits = logits * float(logits.detach().abs().max().clamp(1, 2))
        return logits


def _hooked():
    model = net()
    model[0].register_forward_hook(lambda *_: None)
    return model


def _loss(model, x, y):
    return nn.functional.cross_entropy(model(x), y)


REFUSED = {
    "step of its own": (net, {"recipe": AWP(PGD)}),
    "recipe or its loss is the caller's": (net, {"recipe": _loss}),
    "or its loss": (net, {"recipe": PGDTraining(THREAT, loss=lambda logits, y, targets: -logits[:, 0])}),
    "its loss is the caller's": (net, {"recipe": PGDTraining(THREAT, attack_loss=lambda z, y, _: -z[:, 0])}),
    "optimizer is the caller's": (net, {"optimizer": partial(torch.optim.SGD, lr=0.1)}),
    "its momentum moves": (net, {"optimization": Optimization(schedule="one_cycle_momentum")}),
    "has hooks": (_hooked, {}),
    "changes the model": (partial(Odd, "counts"), {}),
    "random numbers on the CPU": (partial(Odd, "python"), {}),
    "not permitted when stream is capturing": (partial(Odd, "reads"), {}),
}


@pytest.mark.parametrize("why", REFUSED)
def test_what_is_not_captured_runs_as_it_is_and_is_told_once(why, captured, monkeypatch):
    make, options = REFUSED[why]
    recipe = options.get("recipe", PGD)
    more = {name: options[name] for name in ("optimizer", "optimization") if name in options}
    models, lines = [], []
    monkeypatch.setattr(_steps.logger, "info", lambda text, *values: lines.append(text % values))
    for cuda_graph in (False, None):
        execution = Execution(cuda_graph=cuda_graph)
        models.append(model := make())
        with rng.generators_kept(rng.CPU, 0):
            fit(model, images(), recipe, epochs=2, batch_size=12, identity="", execution=execution, **more)
    assert_same(*models)
    reasons = [line for line in lines if "not captured" in line]
    assert len(reasons) == 1
    assert why in reasons[0]


def test_a_model_that_changes_between_steps_is_seen(captured):
    models = [nn.Sequential(net(), nn.Threshold(-9.0, -9.0)) for _ in range(2)]
    for model, cuda_graph in zip(models, (False, None), strict=True):

        def change(done, total, model=model):
            model[1].threshold = 0.1 * (done >= 4) - 9.0 * (done < 4)

        execution = Execution(cuda_graph=cuda_graph)
        fit(model, images(), PGD, epochs=1, batch_size=8, progress=change, execution=execution)
    assert_same(*models)
    assert captured


def test_a_compiled_run_trains_the_same(captured, monkeypatch):
    """By a backend that computes as torch does; the last batch, of another size, is compiled by none."""
    full, called_by = [], _steps.called_by

    def watched(model, call):
        full.append(call is not None)
        return called_by(model, call)

    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    monkeypatch.setattr(_steps, "called_by", watched)
    case = CASES["trades"] | {"epochs": 1}
    expected, _ = trained(cuda_graph=False, **case)
    assert not any(full)
    options = case | {"execution": {"compile": True}}
    for cuda_graph in (False, None):
        full.clear()
        model, _ = trained(cuda_graph=cuda_graph, **options)
        assert_same(model, expected)
        assert vars(model).keys() == vars(net()).keys()
        assert full == [*4 * [True], False]

"""A run follows its seed, also where the model draws when it is tested; the caller's generators stay."""

import random
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from fastadv import rng
from fastadv.attacks import pgd
from fastadv.threat import Linf
from fastadv.train import PGDTraining, epochs, fit
from tests.train.nets import assert_same, grouped, images, stopped, timeless

pytestmark = pytest.mark.slow
OWN = PGDTraining(Linf(0.05), steps=1)
DRAWS = (
    lambda z: torch.randn_like(z),
    lambda z: torch.from_numpy(np.random.standard_normal(z.shape)).float(),
    lambda z: torch.tensor([[random.gauss(0, 1) for _ in row] for row in z]),
)


class Noisy(nn.Module):
    """Logits with noise from every generator there is, also in eval mode."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.linspace(-1, 1, 192).view(64, 3).sin())

    def forward(self, x):
        return x.flatten(1) @ self.weight + 2 * sum(draw(x[:, 0, 0, :3]) for draw in DRAWS)


def asked(seed=0, **options):
    data = images(60, 1)
    options = {"validation_set": data.subset(range(30)), "ema": 0.9, "patience": 2} | options
    attacks = {"pgd": partial(pgd, threat=Linf(0.05), steps=1)}
    common = {"test_set": data, "test_attacks": attacks, "seed": seed, "batch_size": 25}
    return Noisy(), grouped(**common, **options)


def generators():
    return [random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()]


def draws():
    return [random.random(), float(np.random.rand()), float(torch.rand(()))]


def test_every_figure_follows_the_seed_and_the_callers_generators_stay(tmp_path):
    runs = []
    for seed, call in ((0, fit), (0, epochs), (1, fit)):
        draws()  # whatever was drawn before
        model, options = asked(seed)
        before = generators()
        reports = [*call(model, images(), OWN, epochs=3, **options)]
        assert generators() == before
        runs.append((model, timeless(reports)))
    (first, reports), (again, same), (_, others) = runs
    assert_same(first, again)
    assert reports == same != others
    model, options = asked()
    stopped(3, fit, model, images(), OWN, epochs=3, run_dir=tmp_path, **options)
    assert generators() == before
    rest = fit(asked()[0], images(), OWN, epochs=3, run_dir=tmp_path, resume=True, **options)
    assert timeless(rest) == reports[1:]


def test_between_two_epochs_the_caller_draws_as_if_nothing_ran():
    model, options = asked()
    undisturbed = timeless(fit(model, images(), OWN, epochs=2, **options))
    with rng.generators_kept(rng.CPU, 5):
        alone = [draws(), draws()]
    model, options = asked()
    with rng.generators_kept(rng.CPU, 5):
        run = [(report, draws()) for report in epochs(model, images(), OWN, epochs=2, **options)]
    assert timeless(report for report, _ in run) == undisturbed
    assert [between for _, between in run] == alone


def test_a_figure_does_not_depend_on_what_is_measured_before_it():
    accuracies = []
    for changed in ({}, {"ema": None}, {"test_limit": 7}):
        model, options = asked(**changed)
        last = fit(model, images(), OWN, epochs=1, **options)[-1]
        names = "validation_clean_accuracy", "validation_robust_accuracy", "own_accuracy"
        accuracies.append([getattr(last, name) for name in names])
    assert accuracies[0] == accuracies[1] == accuracies[2]

"""Rows that depend on each other: what is returned is what was judged, and the flag names the kind."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.attacks.special.mixed_rows import ADVICE, FLAG, mixes_rows
from fastadv.engine import Plain
from fastadv.rng import generators_kept
from tests.attacks.masking.nets import honest

TEST, INF = fa.data.load("digits", "test", limit=40), torch.inf
L2 = partial(fa.L2, INF)


def without_statistics() -> nn.Module:
    with generators_kept(torch.device("cpu"), 0):
        net = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8, track_running_stats=False), nn.ReLU(), nn.Flatten(),
            nn.Linear(288, 10),
        )  # fmt: skip
    return net.eval()


class Centered(nn.Module):
    """Takes the mean over the batch from the logits, or something else of it."""

    def __init__(self, of: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.of = honest("standard"), of

    def forward(self, x: Tensor) -> Tensor:
        z: Tensor = self.net(x)
        return z - self.of(z)


MIXED: dict[str, Callable[[], Any]] = {
    "BatchNorm without statistics": without_statistics,
    "mean of the logits": lambda: Centered(lambda z: 0.5 * z.mean(0)),
    "all of the mean": lambda: Centered(lambda z: z.mean(0)),
    "function": lambda: lambda x: honest("standard")(x) * (1 + x.mean() * torch.arange(10)),
}
ATTACKS = {
    "fmn": partial(fa.attacks.fmn, threat=L2(), steps=15),
    "ddn": partial(fa.attacks.ddn, threat=fa.L2(0.6), steps=15),
    "superdeepfool": partial(fa.attacks.superdeepfool, threat=L2(), steps=8),
    "minimum_norm": partial(fa.attacks.minimum_norm, threat=L2(), steps=60),
    "deepfool": partial(fa.attacks.deepfool, threat=L2(), steps=10),
    "pgd": partial(fa.attacks.pgd, threat=fa.Linf(0.05), steps=12),
    "apgd": partial(fa.attacks.apgd, threat=fa.Linf(0.05), steps=12, stop_early=False),
    "square": partial(fa.attacks.square, threat=fa.Linf(0.1), queries=60),
    "boundary": partial(fa.attacks.boundary, threat=L2(), steps=20),
    "autoattack": partial(fa.attacks.autoattack, threat=fa.Linf(0.05), version=["apgd-ce"]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", MIXED)
@pytest.mark.parametrize("name", ATTACKS)
def test_a_pass_of_what_is_returned_gives_the_successes(name: str, kind: str) -> None:
    model, x = MIXED[kind](), TEST.x
    y = model(x).argmax(1)
    y[::7] = (y[::7] + 1) % 10
    out = ATTACKS[name](model, x, y)
    fresh = model(out.x_adv).detach().argmax(1) != y
    assert torch.equal(fresh & out.success, out.success)
    assert torch.equal(fresh[out.correct], out.success[out.correct])
    assert "rand" not in "; ".join(out.flags)
    # an attack that moved nobody after a verdict has nothing to tell
    assert (
        FLAG in out.flags or kind == "function" or name in ("square", "superdeepfool", "apgd", "autoattack")
    )


@pytest.mark.slow
def test_rows_of_their_own_and_random_ones_are_no_such_kind() -> None:
    net = honest("standard")
    noisy = nn.Sequential(nn.Dropout(0.3), net).eval()
    noisy[0].train()
    for attack, model in (*((each, net) for each in ATTACKS.values()), (ATTACKS["pgd"], noisy)):
        assert not any(flag.startswith("mixed_rows") for flag in attack(model, TEST.x, TEST.y).flags)


def placed(x: Tensor) -> Tensor:
    """Logits behind noise that is fixed by the place in the batch."""
    return honest("standard")(x + 0.2 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.slow
@pytest.mark.parametrize("model", [without_statistics(), placed])
def test_the_verdict_names_it_and_what_helps(model: Any) -> None:
    few = partial(fa.attacks.fmn, threat=fa.Linf(0.1), steps=10)
    verdict = fa.evaluate(model, (TEST.x, model(TEST.x).argmax(1)), few, batch_size=40).verdict
    assert verdict.endswith(f"Next: {ADVICE}")
    assert "randomized" not in verdict
    alone = lambda x: torch.cat([model(row) for row in x.split(1)])  # noqa: E731
    assert "mixed_rows" not in fa.evaluate(alone, (TEST.x, alone(TEST.x).argmax(1)), few).verdict


def test_a_random_model_does_not_mix_rows() -> None:
    noisy, ids = Plain(lambda x: honest("standard")(x + 0.3 * torch.rand_like(x))), torch.arange(40)
    assert not mixes_rows(noisy, TEST.x, ids, noisy.verdict(TEST.x), 1e-4)
    mixed = Plain(without_statistics())
    assert mixes_rows(mixed, TEST.x, ids, mixed.verdict(TEST.x), 1e-4)
    for count in (2, 3):  # of which fewer pass alone
        assert mixes_rows(mixed, TEST.x[:count], ids[:count], mixed.verdict(TEST.x[:count]), 1e-4)
    assert not mixes_rows(mixed, TEST.x[:1], ids[:1], mixed.verdict(TEST.x[:1]), 1e-4)


def test_what_others_turn_right_again_is_no_success() -> None:
    """Both rows are of class 1 where their mean is above a half, as it is once the second is attacked."""

    def model(x: Tensor) -> Tensor:
        return torch.cat([torch.full_like(x, 0.5), 0 * x + x.mean()], 1)

    out = fa.attacks.pgd(model, torch.full((2, 1), 0.4), torch.tensor([1, 0]), fa.Linf(0.3), steps=3)
    assert FLAG in out.flags
    assert out.success.tolist() == [False, True]

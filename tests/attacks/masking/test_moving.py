"""Defenses that move at test time: the grey box is too kind, the verdict says why, and what follows them."""

import runpy
from collections.abc import Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fastadv as fa
from tests.attacks.nets import images, labels, mlp

EXAMPLE = Path(__file__).parents[3] / "examples" / "9_moving_defenses.py"
SIGNS = {
    "counterattack": {"randomized"},
    "purification": {"mixed_rows"},
    "views": {"randomized"},
}
APGD = partial(fa.attacks.apgd, steps=40)


def measured(model: nn.Module, attack: Any, **options: Any) -> fa.evaluation.Table:
    torch.manual_seed(1)
    digits = fa.data.load("digits", "test", limit=100)
    return fa.evaluate(model, digits, {"adaptive": attack}, threat=fa.Linf(0.12), **options)


@cache
def example() -> tuple[nn.Module, Mapping[str, Any], float]:
    names = runpy.run_path(str(EXAMPLE))
    net = names["trained"]()
    table = measured(net, APGD)
    assert table.clean_accuracy > 0.9
    assert table.verdict.startswith("No sign of masking")
    return net, names["systems"](net), table["adaptive"].robust_accuracy


@pytest.mark.slow
@pytest.mark.parametrize("name", SIGNS)
def test_the_grey_box_is_too_kind_and_the_verdict_says_why(name: str) -> None:
    net, systems, undefended = example()
    table = measured(systems[name][0], partial(APGD, steps=5), grey_box=net)
    assert table["grey box"].robust_accuracy >= undefended + 0.2
    assert table.indicators is not None
    assert SIGNS[name] <= {*table.indicators.flagged}


@pytest.mark.slow
def test_the_exact_gradient_leads_to_what_the_undefended_net_has() -> None:
    _, systems, undefended = example()
    whole = partial(APGD, stop_early=False)  # the rows of a batch depend on each other
    row = measured(systems["purification"][1], whole, indicators=False)["adaptive"]
    assert row.robust_accuracy <= undefended + 0.03


@pytest.mark.slow
@pytest.mark.parametrize("name", ["counterattack", "views"])
def test_of_random_ones_the_verdict_says_what_draws_leave(name: str) -> None:
    """One draw is right more often than the net, and many in a row are not."""
    _, systems, undefended = example()
    table = measured(systems[name][1], partial(APGD, steps=10, eot=2), draws=10)
    draws = table["adaptive"].draws
    assert draws is not None
    assert max(draws.worst + 0.1, undefended) < draws.one_draw
    assert table.verdict.startswith("Randomized: at most ")
    assert f"{100 * draws.worst:.1f}% worst of 10 draws (eot=2)" in table.verdict


class Loop(nn.Module):
    """Four noisy steps by a gradient of its own, followed exactly."""

    def __init__(self, net: nn.Module, stepwise: bool) -> None:
        super().__init__()
        self.net, self.stepwise = net, stepwise

    def step(self, z: Tensor) -> Tensor:
        with torch.enable_grad():
            leaf = z if z.requires_grad else z.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.net(leaf).logsumexp(1).sum(), leaf, create_graph=True)
        return z + 0.1 * gradient.tanh() + 0.01 * torch.randn_like(z)

    def forward(self, x: Tensor, times: int = 4) -> Tensor:
        for _ in range(times):
            x = checkpoint(self.step, x, use_reentrant=False) if self.stepwise else self.step(x)
        return self.net(x)


X = images(12, dtype=torch.float32)
NET = mlp(4, seed=5, dtype=torch.float32)
LOOPS = Loop(NET, stepwise=False).eval(), Loop(NET, stepwise=True).eval()


def passed(model: nn.Module, times: int) -> tuple[Tensor, int]:
    """Return the gradient of a pass, and how many values it kept beside the parameters for it."""
    kept, x = [0], X.clone().requires_grad_()

    def pack(tensor: Tensor) -> Tensor:
        kept[0] += tensor.numel() * (not isinstance(tensor, nn.Parameter))
        return tensor

    torch.manual_seed(0)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(x, times)
    return torch.autograd.grad(out.square().sum(), x)[0], kept[0]


def test_a_checkpointed_step_has_the_same_gradient_and_its_noise_at_the_memory_of_one() -> None:
    (plain, whole), (exact, steps) = (passed(loop, 8) for loop in LOOPS)
    assert torch.equal(plain, exact)
    assert not torch.equal(plain, passed(LOOPS[1], 4)[0])
    one = passed(LOOPS[0], 1)[1]
    assert whole > 5 * one
    assert steps <= one + 8 * X.numel()  # and the input of each


@pytest.mark.parametrize("freeze", [False, True])
def test_attacks_and_tables_are_those_of_the_plain_loop(freeze: bool) -> None:
    y, outs, rows = labels(NET, X), [], []
    for loop in LOOPS:
        torch.manual_seed(0)
        model, pgd = (
            fa.freeze(loop) if freeze else loop,
            partial(fa.attacks.pgd, threat=fa.Linf(0.05), steps=3),
        )
        outs.append(pgd(model, X, y))
        rows.append(fa.evaluate(model, (X, y), pgd, draws=2, indicators=False).rows[0])
    torch.testing.assert_close(outs[0].x_adv, outs[1].x_adv, rtol=0, atol=1e-6)
    assert torch.equal(rows[0].draws.right, rows[1].draws.right)

"""Models without a gradient: evaluations, curves and universal run, however long the work."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

import fastadv as fa
from fastadv.errors import InputError, NoGradientError
from fastadv.evaluation.table import Table

pytestmark = pytest.mark.slow
torch.manual_seed(0)
NET = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
).eval()
X = fa.data.load("digits", "test").x[:300]
Y, THREAT = NET(X).argmax(1), fa.Linf(0.05)
SQUARE = partial(fa.attacks.square, queries=24)  # of 300 images more passes than are searched as given


class Around(nn.Module):
    def __init__(self, run: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.run = NET, run
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.net, x)


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> Tensor:
        raise NotImplementedError("no backward pass")


def votes(net: Any, x: Tensor) -> Tensor:
    return torch.stack([one_hot(net(x + by).argmax(1), 10) for by in (-0.02, 0.0, 0.02)]).sum(0).float()


KINDS = {
    "no_grad": Around(lambda net, x: torch.no_grad()(net)(x)),
    "inference": Around(lambda net, x: torch.inference_mode()(net)(x)),
    "numpy": Around(lambda net, x: torch.from_numpy(net(x).detach().numpy())),
    "numpy of x": Around(lambda net, x: net(torch.from_numpy(x.numpy()))),
    "8 bits": Around(lambda net, x: net((x * 255).to(torch.uint8).float() / 255)),
    "votes": Around(votes),
    "raises": Around(lambda net, x: net(Raises.apply(x))),
    "detached": Around(lambda net, x: net(x).detach()),
}


def measured(model: Any, **options: Any) -> Table:
    return fa.evaluate(model, (X, Y), {"pgd": "pgd", "square": SQUARE}, threat=THREAT, **options)


def assert_same(one: Table, other: Table) -> None:
    for name in ("pgd", "square"):
        assert torch.equal(one[name].broken, other[name].broken)


@pytest.mark.parametrize("kind", KINDS)
def test_long_work_gives_what_a_function_gives(kind: str) -> None:
    table = measured(KINDS[kind])
    assert not table["pgd"].broken.any()
    assert table["pgd"].flags[0].startswith("zero_gradient: the attack could not run (model: expected")
    assert "zero_gradient" in table.verdict
    assert table["square"].broken.any()
    assert_same(table, measured(lambda x: KINDS[kind](x), indicators=False))


def test_that_there_is_no_gradient_is_no_fault_of_a_copy() -> None:
    frozen = fa.freeze(KINDS["detached"])
    assert measured(frozen, indicators=False)["square"].broken.any()
    assert not frozen.exact


@pytest.mark.parametrize("kind", ["no_grad", "numpy of x"])
def test_curves_go_on_with_a_warning(kind: str) -> None:
    curve = partial(fa.accuracy_against_radius, KINDS[kind], (X, Y), radii=[0.05])
    square = curve(lambda radius: partial(SQUARE, threat=fa.Linf(radius))).accuracy[0]
    assert square == pytest.approx(measured(KINDS[kind], freeze=False)["square"].robust_accuracy)
    for attack in (
        lambda r: partial(fa.attacks.pgd, threat=fa.Linf(r)),
        partial(fa.attacks.fmn, threat=fa.Linf(1)),
    ):
        with pytest.warns(UserWarning, match="no gradient, so that the attack broke nothing"):
            assert curve(attack).accuracy == 1


def test_universal_finds_nothing_and_says_so() -> None:
    out = fa.attacks.universal(KINDS["raises"], (X, Y), THREAT, epochs=14)
    assert not out.parameters.any()
    assert out.robust_accuracy == out.clean_accuracy == 1
    assert any(flag.startswith("zero_gradient: the attack could not run") for flag in out.flags)


def test_a_gradient_for_some_batches_alone_is_used() -> None:
    some, x = Around(lambda net, x: net(x if x[0, 0, 0, 0] > 0.5 else x.detach())), X.clone()
    x[:, 0, 0, 0] = (torch.arange(300) >= 100).float()  # the first samples have none
    asked = partial(fa.evaluate, some, (x, NET(x).argmax(1)), "pgd", threat=THREAT, batch_size=50)
    rows = [asked(freeze=freeze)["pgd"] for freeze in (None, False)]
    assert torch.equal(rows[0].broken, rows[1].broken)
    assert rows[0].broken.any()
    assert rows[0].unmoved == 100


def test_dynamic_int8_runs_and_is_known_by_its_weights(tmp_path: Path) -> None:
    def quantized(factor: float) -> Any:
        last = nn.Linear(512, 10)
        last.load_state_dict({name: factor * value for name, value in NET[4].state_dict().items()})
        net = nn.Sequential(NET[:4], last).eval()
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})  # type: ignore[no-untyped-call]

    asked = partial(measured, run_dir=tmp_path, indicators=False)
    assert_same(asked(quantized(1)), asked(quantized(1), resume=True))
    with pytest.raises(InputError, match="another model"):
        asked(quantized(2), resume=True)


def test_only_what_follows_a_gradient_refuses() -> None:
    with pytest.raises(NoGradientError, match=r"whose backward pass raises .*\(no backward pass\)"):
        fa.attacks.pgd(KINDS["raises"], X[:4], Y[:4], THREAT)
    with pytest.raises(NoGradientError, match="whose forward pass raises"):
        fa.attacks.deepfool(KINDS["numpy of x"], X[:4], Y[:4], fa.L2(1))
    with pytest.raises(KeyError, match="mine"):  # an error in any pass stays what it is
        fa.engine.Plain(Around(lambda net, x: {}["mine"])).input_gradient(X[:4], Y[:4])  # type: ignore[index]

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
from fastadv.errors import NoGradientError
from fastadv.evaluation.table import Table

torch.manual_seed(0)
NET = nn.Sequential(
    nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 10)
).eval()
X = fa.data.load("digits", "test").x[:300]
Y = NET(X).argmax(1)
THREAT = fa.Linf(0.05)
SQUARE = partial(fa.attacks.square, queries=24)  # of 300 images more passes than are searched as given


pytestmark = pytest.mark.slow


class Around(nn.Module):
    def __init__(self, run: Callable[[nn.Module, Tensor], Tensor]) -> None:
        super().__init__()
        self.net, self.run = NET, run

    def forward(self, x: Tensor) -> Tensor:
        return self.run(self.net, x)


class Raises(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *by: Tensor) -> Tensor:
        raise NotImplementedError("no backward pass")


class Scripted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.net = nn.Conv2d(1, 1, 1, bias=False), NET
        nn.init.ones_(self.first.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(self.first(x.detach()))  # type: ignore[no-any-return]


def without(mode: Callable[[], Any]) -> Callable[[nn.Module, Tensor], Tensor]:
    def run(net: nn.Module, x: Tensor) -> Tensor:
        with mode():
            return net(x)  # type: ignore[no-any-return]

    return run


def votes(net: nn.Module, x: Tensor) -> Tensor:
    seen = [net((x + shift).clamp(0, 1)).argmax(1) for shift in (-0.02, 0.0, 0.02)]
    return torch.stack([one_hot(each, 10) for each in seen]).sum(0).float()


KINDS: dict[str, Callable[[], nn.Module]] = {
    "no_grad": lambda: Around(without(torch.no_grad)),
    "inference": lambda: Around(without(torch.inference_mode)),
    "numpy": lambda: Around(lambda net, x: torch.from_numpy(net(x).detach().numpy())),
    "numpy of x": lambda: Around(lambda net, x: net(torch.from_numpy(x.numpy()))),
    "8 bits": lambda: Around(lambda net, x: net((x * 255).to(torch.uint8).float() / 255)),
    "decisions": lambda: Around(lambda net, x: one_hot(net(x).argmax(1), 10).float()),
    "votes": lambda: Around(votes),
    "raises": lambda: Around(lambda net, x: net(Raises.apply(x))),
    "detached": lambda: Around(lambda net, x: net(x).detach()),
    "scripted": lambda: torch.jit.script(Scripted().eval()),
}


def measured(model: Any, **options: Any) -> Table:
    return fa.evaluate(model, (X, Y), {"pgd": "pgd", "square": SQUARE}, threat=THREAT, **options)


def assert_same(one: Table, other: Table) -> None:
    for name in ("pgd", "square"):
        assert torch.equal(one[name].broken, other[name].broken)
        assert torch.equal(one[name].distance, other[name].distance)


@pytest.mark.parametrize("kind", KINDS)
def test_long_work_gives_what_a_function_gives(kind: str) -> None:
    model = KINDS[kind]().eval()
    table = measured(model)
    assert not table["pgd"].broken.any()
    assert table["pgd"].flags[0].startswith("zero_gradient: the attack could not run")
    assert "zero_gradient" in table.verdict
    assert table["square"].broken.any()
    assert_same(table, measured(lambda x: model(x)))


@pytest.mark.parametrize("kind", ["8 bits", "raises"])
@pytest.mark.parametrize("options", [{"batch_size": 64}, {"precision": "bf16"}, {"freeze": True}], ids=str)
def test_however_it_is_asked(kind: str, options: dict[str, Any], tmp_path: Path) -> None:
    model = KINDS[kind]().eval()
    table = measured(model, run_dir=tmp_path, **options)
    assert_same(table, measured(model, freeze=False))
    assert_same(table, measured(model, run_dir=tmp_path, resume=True, **options))


def test_a_frozen_one_falls_back_with_a_note() -> None:
    frozen = fa.freeze(KINDS["detached"]().eval())
    measured(frozen, indicators=False)
    assert frozen.notes[-1].startswith("fell back to the model as given: it has no gradient")


@pytest.mark.parametrize("kind", ["no_grad", "numpy of x"])
def test_curves_go_on_with_a_warning(kind: str) -> None:
    model = KINDS[kind]().eval()
    square = fa.accuracy_against_radius(
        model, (X, Y), lambda radius: partial(SQUARE, threat=fa.Linf(radius)), [0, 0.05]
    )
    expected = measured(model, freeze=False)["square"].robust_accuracy
    assert square.accuracy.tolist() == pytest.approx([1, expected])
    with pytest.warns(UserWarning, match="no gradient, so that the attack broke nothing"):
        pgd = fa.accuracy_against_radius(
            model, (X, Y), lambda radius: partial(fa.attacks.pgd, threat=fa.Linf(radius)), [0.15]
        )
    with pytest.warns(UserWarning, match="no gradient"):
        fmn = fa.accuracy_against_radius(model, (X, Y), partial(fa.attacks.fmn, threat=fa.Linf(1)), [0.15])
    assert (pgd.accuracy, fmn.accuracy) == (1.0, 1.0)


@pytest.mark.parametrize("kind", ["decisions", "raises"])
def test_universal_finds_nothing_and_says_so(kind: str) -> None:
    out = fa.attacks.universal(KINDS[kind]().eval(), (X, Y), THREAT, epochs=14)
    assert not out.parameters.any()
    assert out.robust_accuracy == out.clean_accuracy == 1
    assert any(flag.startswith("zero_gradient: the attack could not run") for flag in out.flags)


def test_a_gradient_for_some_batches_alone_is_used() -> None:
    some = Around(lambda net, x: net(x if x[0, 0, 0, 0] > 0.5 else x.detach())).eval()
    x = X.clone()
    x[:, 0, 0, 0] = (torch.arange(300) >= 100).float()  # the first samples have none
    tables = [
        fa.evaluate(some, (x, NET(x).argmax(1)), "pgd", threat=THREAT, batch_size=50, freeze=freeze)
        for freeze in (None, False)
    ]
    assert torch.equal(*(table["pgd"].broken for table in tables))
    assert tables[0]["pgd"].broken[100:].any()
    assert tables[0]["pgd"].unmoved == 100


def test_dynamic_int8_runs_and_is_known_by_its_weights(tmp_path: Path) -> None:
    def quantized(factor: float) -> nn.Module:
        net = nn.Sequential(NET[:4], nn.Linear(512, 10))
        net[1].load_state_dict({name: factor * value for name, value in NET[4].state_dict().items()})
        made: nn.Module = torch.ao.quantization.quantize_dynamic(net.eval(), {nn.Linear})
        return made

    table = measured(quantized(1), run_dir=tmp_path)
    assert_same(table, measured(quantized(1), run_dir=tmp_path, resume=True))
    with pytest.raises(fa.errors.InputError, match="another model"):
        measured(quantized(2), run_dir=tmp_path, resume=True)


def test_only_what_follows_a_gradient_refuses() -> None:
    """An error of the model in any pass stays what it is."""
    with pytest.raises(NoGradientError, match=r"whose backward pass raises .*\(no backward pass\)"):
        fa.attacks.pgd(KINDS["raises"]().eval(), X[:4], Y[:4], THREAT)
    with pytest.raises(NoGradientError, match="whose forward pass raises"):
        fa.attacks.deepfool(KINDS["numpy of x"]().eval(), X[:4], Y[:4], fa.L2(1))

    def broken(net: nn.Module, x: Tensor) -> Tensor:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        fa.engine.Plain(Around(broken).eval()).input_gradient(X[:4], Y[:4])

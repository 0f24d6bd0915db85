"""precision="tf32": torch's switches are set while a step is taken, and at no other time."""

import pytest
import torch

import fastadv as fa
from fastadv.engine.precision import switches
from fastadv.errors import InputError
from fastadv.train import Execution, Standard, execution, fit

from .nets import images, net

SWITCHES = [(each, name) for each, name, _ in switches()]
NEWER = SWITCHES[0][1] == "fp32_precision"
SWITCHES += [(torch.backends.mkldnn.matmul, "fp32_precision")] if NEWER else []
CALLERS = {
    "untouched": lambda: None,
    "ieee": lambda: setattr(*SWITCHES[1], "ieee" if NEWER else False),
    "newer": lambda: setattr(*SWITCHES[0], "tf32" if NEWER else True),
    "older": lambda: setattr(torch.backends.cuda.matmul, "allow_tf32", True),
    "medium": lambda: torch.set_float32_matmul_precision("medium"),
    "highest": lambda: torch.set_float32_matmul_precision("highest"),
}
ENDS = "whole", "closed", "dropped", "broken"


def state():
    """All of them: newer ones, and older ones where they can be read."""
    found = [getattr(*switch) for switch in SWITCHES]
    for older in (torch.get_float32_matmul_precision, lambda: torch.backends.cuda.matmul.allow_tf32):
        try:
            found.append(older())
        except RuntimeError:
            found.append("refused")
    return found


@pytest.fixture(autouse=True)
def as_found():
    before = [getattr(*switch) for switch in SWITCHES]
    yield
    torch.set_float32_matmul_precision("highest")
    for switch, precision in zip(SWITCHES, before, strict=True):
        setattr(*switch, precision)


@pytest.fixture
def gpu(monkeypatch):
    """As if the device of the test had TF32."""
    monkeypatch.setattr(execution, "has_tf32", lambda device: True)


class Noting(Standard):
    """Standard training that notes the switches of each step."""

    def __call__(self, model, x, y, *, ids=None, seed=0):
        SEEN.append(state())
        if FAIL:
            raise RuntimeError("broken")
        return super().__call__(model, x, y)


SEEN: list = []
FAIL: list = []


@pytest.fixture(autouse=True)
def fresh():
    SEEN.clear()
    FAIL.clear()


@pytest.mark.parametrize(("caller", "end"), [*zip(CALLERS, [*ENDS, *ENDS[:2]], strict=True)])
def test_the_switches_are_the_callers_outside_of_steps(caller, end, gpu):
    CALLERS[caller]()
    before, outside = state(), []

    def attack(model, x, y, **options):
        outside.append(state())
        return fa.attacks.fgsm(model, x, y, fa.Linf(0.02), **options)

    training = fa.train.epochs(
        net(), images(), Noting(), epochs=2, batch_size=25, execution=Execution(precision="tf32"),
        test_set=images(8), test_attacks={"fgsm": attack},
        progress=lambda done, total: outside.append(state()),
    )  # fmt: skip
    assert state() == before
    next(training)
    assert state() == before
    assert len(SEEN) == 2
    for seen in SEEN:
        assert all(value == on for value, (_, _, on) in zip(seen, switches(), strict=False))
        # code that asks the older way is not refused, unless the caller was
        assert "refused" not in seen or "refused" in before
    if end == "whole":
        assert len(list(training)) == 1
    elif end == "closed":
        training.close()
    elif end == "dropped":
        del training
    else:
        FAIL.append(True)
        with pytest.raises(RuntimeError, match="broken"):
            next(training)
    assert state() == before
    assert len(outside) >= 3
    assert all(seen == before for seen in outside)


def test_without_it_the_switches_stay():
    before = state()
    fit(net(), images(), Noting(), epochs=1)
    assert all(seen == before for seen in SEEN)


def test_a_run_is_resumed_in_its_precision(gpu, tmp_path):
    options = {"run_dir": tmp_path, "batch_size": 25}
    fit(net(), images(), Standard(), epochs=1, execution=Execution(precision="tf32"), **options)
    with pytest.raises(InputError, match=r"another precision \(tf32 there, fp32 here\)"):
        fit(net(), images(), Standard(), epochs=1, resume=True, **options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_it_changes_products_on_a_gpu():
    model, other = net().cuda(), net().cuda()
    for each, precision in ((model, "tf32"), (other, "fp32")):
        fit(each, images(), Standard(), epochs=1, execution=Execution(precision=precision))
    assert not torch.equal(model[5].weight, other[5].weight)
    torch.testing.assert_close(model[5].weight, other[5].weight, rtol=1e-2, atol=1e-2)

"""Many threads freeze, check, measure and use models."""

import copy
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

import fastadv as fa

from . import nets  # noqa: F401
from .judge import Answer, check_directions, check_rows
from .net import ZOO
from .state import State

pytestmark = pytest.mark.usefixtures("search_copy")
THREADS = 4
# folded, own backward, functions of autograd and of torch.func, hooks, layouts, wide and thin convolutions
NAMES = (
    "residual", "straight_through_activations", "functional_gradient",
    "hook_that_reads_what_the_norm_is_given", "patches_by_view", "thin_from_one_channel",
    "buffers_written",
)  # fmt: skip


def at_once(work: Callable[[int], None]) -> None:
    """work(0) to work(THREADS - 1) in threads that begin together; what one raises is raised."""
    together = threading.Barrier(THREADS)

    def begin(number: int) -> None:
        together.wait(timeout=60)
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        for done in [pool.submit(begin, number) for number in range(THREADS)]:
            done.result()


class Case:
    """A net of the zoo, drawn before threads begin: builders seed torch's generator for the whole process."""

    def __init__(self, name: str) -> None:
        self.net = ZOO[name]
        self._model = self.net.build()

    def model(self) -> nn.Module:
        return copy.deepcopy(self._model)

    def check(self, frozen: fa.Frozen, batch: int) -> None:
        """Verdicts to the bit, gradients up to rounding, or in their direction."""
        x, y = self.net.images(batch)
        answer = Answer(*frozen.input_gradient(x, y))
        with torch.no_grad():
            assert torch.equal(frozen.verdict(x), self.model()(x))
        if frozen.options.precision == "fp32":
            check_rows(self.model(), x, y, answer)
        else:
            check_directions(self.model, x, y, answer)


@pytest.fixture(scope="module")
def cases() -> list[Case]:
    return [Case(name) for name in NAMES]


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_threads_share_one_frozen_model_from_its_first_use(cases: list[Case], precision: str) -> None:
    """Each thread has batches of another size, which may be searched in another way."""
    for case in cases if precision == "fp32" else cases[:2]:
        frozen = fa.freeze(case.model(), precision)
        at_once(lambda number, case=case, frozen=frozen: case.check(frozen, (16, 3, 1, 16)[number]))


@pytest.mark.slow
def test_threads_attack_one_model(cases: list[Case]) -> None:
    """As given: each attack freezes it for itself. All find the same."""
    for case in cases:
        model, (x, y) = case.model(), case.net.images(3)
        outs: dict[int, fa.attacks.AttackResult] = {}
        before = State.of(model, values=case.net.name != "buffers_written", randomness=False)

        def work(number: int, model=model, x=x, y=y, outs=outs) -> None:
            outs[number] = fa.attacks.pgd(model, x, y, fa.Linf(0.05), steps=2)

        at_once(work)
        before.check(model)
        for out in outs.values():
            assert torch.equal(out.success, outs[0].success)
            torch.testing.assert_close(out.loss, outs[0].loss, rtol=1e-3, atol=1e-5)

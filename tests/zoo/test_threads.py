"""Many threads freeze, check, measure and use models, beside others that know nothing of it."""

import copy
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch import nn

import fastadv as fa

from . import nets  # noqa: F401
from .judge import Answer, check_directions, check_rows, eager
from .net import ZOO, block, head
from .state import State

pytestmark = pytest.mark.usefixtures("search_copy")
THREADS = 4
# folded, own backward, functions of autograd and of torch.func, hooks, layouts, wide and thin convolutions
NAMES = (
    "residual", "straight_through_activations", "functional_gradient",
    "hook_that_reads_what_the_norm_is_given", "patches_by_view", "thin_from_three_channels",
    "buffers_written",
)  # fmt: skip


class Unrelated:
    """A thread of plain PyTorch on a model of its own, which must notice nothing."""

    def __init__(self) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(block(), block(16), head()).eval()
        self.x, self.y = torch.rand(4, 3, 8, 8), torch.arange(4)
        self.wanted, self.calls, self.stop = eager(self.model, self.x, self.y), 0, threading.Event()

    def run(self) -> None:
        while not self.stop.is_set():
            answer = eager(self.model, self.x, self.y)
            assert torch.equal(answer.logits, self.wanted.logits)
            assert torch.equal(answer.gradient, self.wanted.gradient)
            assert type(self.model[0][1].weight) is nn.Parameter
            self.calls += 1


@contextmanager
def unrelated_models() -> Iterator[None]:
    """Two such threads, which must have come through and done something."""
    threads = [Unrelated() for _ in range(2)]
    state = State.of(threads[0].model, randomness=False)
    with ThreadPoolExecutor(len(threads)) as pool:
        running = [pool.submit(thread.run) for thread in threads]
        try:
            yield
        finally:
            for thread in threads:
                thread.stop.set()
        for done in running:
            done.result()
    assert all(thread.calls for thread in threads)
    state.check(threads[0].model)  # nothing of nn.Module stays replaced


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
    with unrelated_models():
        for case in cases if precision == "fp32" else cases[:2]:
            frozen = fa.freeze(case.model(), precision)
            at_once(lambda number, case=case, frozen=frozen: case.check(frozen, (16, 3, 1, 16)[number]))


@pytest.mark.slow
def test_threads_attack_one_model(cases: list[Case]) -> None:
    """As given: each attack freezes it for itself. All find the same."""
    with unrelated_models():
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

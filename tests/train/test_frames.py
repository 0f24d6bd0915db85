"""A model is reached through few functions of the library: each is one more to step through."""

import sys
from pathlib import Path

import pytest

import fastadv as fa
from fastadv.train import AWP, TRADES, Execution, PGDTraining, epochs, fit
from tests.train.nets import images, net

LIBRARY = str(Path(fa.__file__).parent)
PGD = PGDTraining(fa.Linf(0.1), steps=2)


def frames() -> list[str]:
    """Return the functions of the library that are running, the innermost first."""
    names, frame = [], sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename.startswith(LIBRARY):
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def met(call, recipe):
    """Return what runs at each pass of the model within a search that a recipe begins."""
    model, stacks = net(), []
    model.register_forward_pre_hook(lambda *_: stacks.append(frames()))
    list(call(model, images(), recipe, epochs=1, batch_size=8, execution=Execution(cuda_graph=False)))
    return [stack for stack in stacks if "last_iterate" in stack]


@pytest.mark.parametrize(
    ("call", "recipe", "most"),
    [(fit, PGD, 10), (epochs, PGD, 9), (fit, TRADES(fa.Linf(0.1), steps=2), 11), (fit, AWP(PGD), 11)],
)
def test_few_functions_lie_between_fit_and_the_search(call, recipe, most):
    stacks = met(call, recipe)
    assert stacks
    for stack in stacks:
        above = stack[stack.index("last_iterate") :]
        assert len(above) <= most, above

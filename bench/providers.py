"""PGD of fastadv, of the papers' loop and of each other library on a problem, as calls without arguments."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import fastadv as fa
from bench import pgd
from bench.peers import PEERS, Call
from bench.pgd import Problem
from bench.session import Session, said

LOOP, COMPILED, EARLY = "plain loop", "torch.compile", "fastadv fp32, early stop"
FROZEN = tuple(f"fastadv {precision}, frozen once" for precision in ("fp32", "bf16"))
NO_MEMORY = (COMPILED, EARLY)  # on a CPU: compiling takes long, an early stop takes no more
ALONE = "passes alone, "  # and the precision: no attack, but what an attack is measured by

Make = Callable[[Problem], Callable[[], Any]]


def compiled(given: Problem) -> Call:
    """Run the loop of the papers on a compiled model that needs no weight gradients."""
    model = copy.deepcopy(given.model).requires_grad_(False)
    return partial(pgd.plain, replace(given, model=torch.compile(model)))


def frozen(precision: Any, given: Problem, **options: Any) -> Call:
    """Run fastadv's on a model frozen beforehand, as for many batches."""
    return partial(pgd.ours, given, fa.freeze(given.model, precision), **options)


def alone(precision: Any, given: Problem) -> Callable[[], None]:
    return partial(pgd.passes, given, fa.freeze(given.model, precision))


# without early stop unless the name says so; a model is frozen within the call unless the name says so
PROVIDERS: dict[str, Make] = {
    LOOP: lambda given: partial(pgd.plain, given),
    COMPILED: compiled,
    "fastadv fp32": lambda given: partial(pgd.ours, given, given.model),
    "fastadv bf16": lambda given: lambda: pgd.ours(given, fa.freeze(given.model, precision="bf16")),
    EARLY: lambda given: partial(pgd.ours, given, given.model, stop_early=True),
    FROZEN[0]: partial(frozen, "fp32"),
    FROZEN[1]: partial(frozen, "bf16"),
    **PEERS,
}


def by_device(session: Session) -> dict[str, Make]:
    """Choose the providers for the device: on a GPU none that compiles, which takes long."""
    if session.on_cpu:
        chosen = dict(PROVIDERS)
    else:
        chosen = {name: PROVIDERS[name] for name in (LOOP, "fastadv fp32")} | PEERS
        for name in session.precisions:
            chosen[f"fastadv {name}, frozen once"] = partial(frozen, name)
        chosen["fastadv bf16, early stop, frozen once"] = partial(frozen, "bf16", stop_early=True)
    return chosen | {f"{ALONE}{name}": partial(alone, name) for name in session.precisions}


def made(session: Session, given: Problem, chosen: dict[str, Make]) -> dict[str, Callable[[], Any]]:
    """Make the calls of the providers that can run here, and note the others."""
    ways = {}
    for name, make in chosen.items():
        try:
            ways[name] = make(given)
        except ImportError as error:
            session.note(f"{name} is not installed or cannot run here; its rows are missing ({said(error)})")
    return ways

"""PGD of fastadv and of each other library on a problem, as a call without arguments."""

import copy
import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Literal

import torch

import fastadv as fa
from bench import pgd
from bench.peers import PEERS, Call
from bench.pgd import Problem

COMPILED, EARLY = "torch.compile", "fastadv fp32, early stop"
FROZEN = tuple(f"fastadv {precision}, frozen once" for precision in ("fp32", "bf16"))
NO_MEMORY = (COMPILED, EARLY)  # compiling takes long, an early stop takes no more


def compiled(given: Problem) -> Call:
    """The loop of the papers at a compiled model that needs no weight gradients."""
    model = copy.deepcopy(given.model).requires_grad_(False)
    return partial(pgd.plain, replace(given, model=torch.compile(model)))


def frozen(precision: Literal["fp32", "bf16"], given: Problem) -> Call:
    """fastadv's at a model that is frozen before, as for batches in a row."""
    return partial(pgd.ours, given, fa.freeze(given.model, precision))


# PGD of each provider, without early stop unless the name says so
PROVIDERS: dict[str, Callable[[Problem], Call]] = {
    "plain loop": lambda given: partial(pgd.plain, given),
    COMPILED: compiled,
    "fastadv fp32": lambda given: partial(pgd.ours, given, given.model),
    "fastadv bf16": lambda given: lambda: pgd.ours(given, fa.freeze(given.model, precision="bf16")),
    EARLY: lambda given: partial(pgd.ours, given, given.model, stop_early=True),
    FROZEN[0]: partial(frozen, "fp32"),
    FROZEN[1]: partial(frozen, "bf16"),
    **PEERS,
}


def providers(given: Problem) -> dict[str, Call]:
    """Those that are installed."""
    ways: dict[str, Call] = {}
    for name, make in PROVIDERS.items():
        try:
            ways[name] = make(given)
        except ImportError as error:
            logging.getLogger("bench").warning("%s is not installed; its rows are missing: %s", name, error)
    return ways

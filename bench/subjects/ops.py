"""Each op at sizes that users have: against the usual eager code, and that compiled, or its own reference.

Each row gives the share of the copy bandwidth, or of the matrix product's rate, measured in the same run. The
bytes and operations are the least that the op's card counts. An op whose check fails is not measured. On a
GPU the launch widths of the row kernels are tuned as well.
"""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from math import inf
from pathlib import Path
from statistics import median
from typing import Any

import torch

from bench.by_hand import STEPS
from bench.clock import quantiles, ratio, repeatable, said
from bench.session import Case, Row, Session, Skip
from bench.subjects.abs import descent_by_hand
from bench.subjects.correctness import checked, kernel_of, samples
from bench.subjects.op_sizes import OWN_GRAPHS, Args, Problem, problems
from fastadv.ops.registration.library import CARDS

WIDTHS = ((256, 2), (512, 4), (1024, 4), (1024, 8), (2048, 8), (4096, 16))
NOISE = 0.98  # of the default's time; a smaller gain is none
TUNABLE = (
    "linf_step", "l2_step", "l1_step", "project_l2", "project_l1", "project_l0", "random_start",
    "keep_best_", "distance", "largest", "to_hyperplane", "square_linf", "square_bumps",
    "sparse_rs",
)  # fmt: skip


def cases(session: Session) -> Iterator[Case]:
    every = [*problems(session)]
    for problem in every:
        yield Case(problem.name, partial(measured, session, problem), needs=3)
    for name in () if session.on_cpu else TUNABLE:
        own = [problem for problem in every if problem.op == name]
        yield Case(f"tune {name}", partial(tuned, session, name, own), needs=30)


def gate(session: Session, name: str) -> None:
    """Raise unless the op equals its reference on a few samples: no figure of a wrong kernel.

    Before `make bench` measures on a CPU, the contract tests have run.
    """
    if name in session.passed or session.on_cpu:
        return
    card = CARDS[name]
    with repeatable():
        for dtype in card.dtypes:
            for args in samples(session, card, dtype)[:: session.size(7, 1)]:
                checked(card, kernel_of(session, card) if session.cuda else None, args)
    session.passed.add(name)


@dataclass(frozen=True)
class Way:
    """One provider's call, the arguments it takes in turn, and whether one CUDA graph can hold them all."""

    call: Callable[..., object]
    sets: list[Args]
    captured: bool = True


def measured(session: Session, problem: Problem) -> Iterator[Row]:
    """Measure a problem; the last row is fastadv's, and times are of one call."""
    gate(session, problem.op)
    card = CARDS[problem.op]
    first = problem.make(0)
    moved, flops = card.bytes_moved(*first), card.flops(*first)
    sets = [first] if problem.op in OWN_GRAPHS else session.sets(problem.make, moved)
    ways = {**eager(session, problem, sets), "fastadv": fastadv(problem.op, sets)}
    runs: dict[str, Callable[[], object]] = {}
    calls: dict[str, int] = {}
    memory: dict[str, Row] = {}

    def ready(name: str, way: Way) -> bool:
        memory[name] = session.warmed(lambda: way.call(*way.sets[0]))
        runs[name], calls[name] = session.rotating(way.call, way.sets, way.captured)
        return True

    for name, way in ways.items():
        done, failed = session.tried(name, partial(ready, name, way))
        if not done:
            yield failed
    if not runs:
        return
    taken = session.times(runs, least=session.size(5, 5, 7))
    taken = {name: [value / calls[name] for value in values] for name, values in taken.items()}
    base = "eager" if "eager" in taken else "reference"
    about = {"what": problem.what, "shape": list(first[0].shape)}
    for name, values in taken.items():
        row: Row = about | {"provider": name, "sets": len(ways[name].sets)} | quantiles(values) | memory[name]
        if base in taken:
            row[f"times_{base}"] = round(ratio(taken[base], values), 2)
        if name == "fastadv" and problem.products:
            row |= session.share_of_products(flops, median(values), problem.products)
        elif name == "fastadv":
            row |= session.ceilings.share_of_copy(moved, median(values))
        yield row | {"turns": len(values)}


def fastadv(name: str, sets: list[Args]) -> Way:
    op = getattr(torch.ops.fastadv, f"{name}_" if CARDS[name].in_place else name)
    if name == "keep_best_":
        # a new best in every call: one small write more
        return Way(lambda *args: (args[1].fill_(-inf), op(*args)), sets)
    return Way(op, sets, name not in OWN_GRAPHS)


def eager(session: Session, problem: Problem, sets: list[Args]) -> dict[str, Way]:
    """Return the usual eager code of a step, plain and compiled; for other ops the reference."""
    if problem.op == "latent_fit":
        x, z, weights, biases, strides, _, steps, *_ = sets[0]
        return {"eager": Way(descent_by_hand, [(x, z, weights, biases, strides, steps)], captured=False)}
    # the usual L1 step takes a quantile, which bfloat16 lacks
    if problem.op not in STEPS or (problem.op == "l1_step" and sets[0][0].dtype == torch.bfloat16):
        # references may wait for the device, and some are slow
        return {"reference": Way(CARDS[problem.op].reference, sets[:2], captured=False)}
    usual, radius = STEPS[problem.op][0], sets[0][3]
    if problem.op == "linf_step":  # the edges of its ball are given
        inputs = [(x_adv, grad, x - radius, x + radius) for x_adv, grad, x, *_ in sets]
    else:
        inputs = [args[:3] for args in sets]
    ways = {"eager": Way(usual, inputs)}
    # on a GPU compiling takes seconds, and the rate is much the same for every size
    on_gpu = session.cuda and problem.images == "CIFAR" and sets[0][0].dtype == torch.float32
    if session.on_cpu or on_gpu:
        ways["torch.compile"] = Way(torch.compile(usual, dynamic=False), inputs)
    return ways


def tuned(session: Session, name: str, problems: list[Problem]) -> Iterator[Row]:
    """Try the launch widths of an op that is right, by the median time of a few calls."""

    def milliseconds(sets: list[Args]) -> float:
        way = fastadv(name, sets)
        run, calls = session.rotating(way.call, way.sets, way.captured)
        return median([session.timed(run) for _ in range(7)]) / calls

    if session.cuda:
        gate(session, name)
    yield from tried(session, name, problems, milliseconds)


def tried(
    session: Session, name: str, problems: list[Problem], milliseconds: Callable[[list[Args]], float]
) -> Iterator[Row]:
    """Yield a row for each width on large batches in float32, and last the winner, by product of times.

    A width with another result cannot win. `milliseconds(sets)` times one call.
    """
    try:
        from fastadv.ops.triton._tuned import Width, trying
    except ImportError as error:
        raise Skip(f"Triton is not installed ({error})") from error
    if not session.cuda:
        raise Skip("widths are tuned on a GPU alone")
    card, kernel = CARDS[name], f"{name.rstrip('_')}_kernel"
    chosen = [problem for problem in problems if "float32" in problem.label and problem.images != "MNIST"]
    sets = [session.sets(p.make, card.bytes_moved(*p.make(0))) for p in chosen]
    expected = [result(name, p) for p in chosen]
    default = [milliseconds(part) for part in sets]
    best, winner = 1.0, None
    for block, warps in WIDTHS:
        row: Row = {"provider": f"{block}/{warps}"}
        if session.left() <= 0:
            session.note(f"tune {name}: the stage's time was used up before {block}/{warps}")
            break
        with trying(kernel, Width(block, warps)):
            try:
                for problem, wanted in zip(chosen, expected, strict=True):
                    found = result(name, problem)
                    if card.signature.written:
                        assert torch.equal(found, wanted), f"{problem.name}: another result"
                    else:
                        card.compare(found, wanted, problem.make(0))
                taken = [milliseconds(part) for part in sets]
            except Exception as error:
                if session.dead():
                    raise
                yield row | {"error": said(error)}
                continue
        relative = math.exp(sum(math.log(t / d) for t, d in zip(taken, default, strict=True)) / len(chosen))
        yield row | {"times_default": round(1 / relative, 3)}
        if relative < best:
            best, winner = relative, {"BLOCK": block, "num_warps": warps}
    if best > NOISE:
        best, winner = 1.0, None
    yield {"provider": "winner", "kernel": kernel, "width": winner, "times_default": round(1 / best, 3)}


def result(name: str, problem: Problem) -> Any:
    args = problem.make(0)
    made = getattr(torch.ops.fastadv, name)(*args)
    return args[0] if made is None else made


def write_tuned(path: Path, rows: list[Row]) -> bool:
    """Write the winners among `rows` to the table at `path`. Returns whether there were any."""
    winners = [row for row in rows if row.get("provider") == "winner" and row.get("gpu")]
    table = json.loads(path.read_text()) if path.exists() else {}
    for row in winners:
        kernels = table.setdefault(row["gpu"], {})
        kernels.pop(row["kernel"], None)
        if row["width"]:
            kernels[row["kernel"]] = row["width"]
    if winners:
        path.write_text(json.dumps(table, indent=2, sort_keys=True) + "\n")
    return bool(winners)

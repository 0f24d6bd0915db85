"""The launch widths of row kernels on a GPU: which is fastest, and the table that the kernels read."""

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from bench.clock import said
from bench.session import Row, Session, Skip
from bench.subjects.op_sizes import Args, Problem
from fastadv.ops.registration.library import CARDS

WIDTHS = ((256, 2), (512, 4), (1024, 4), (1024, 8), (2048, 8), (4096, 16))
NOISE = 0.98  # of the default's time; a smaller gain is none
TUNABLE = (
    "linf_step", "l2_step", "l1_step", "project_l2", "project_l1", "project_l0", "random_start",
    "quantize_in_ball", "keep_best_", "distance", "largest", "to_hyperplane", "square_linf", "square_bumps",
    "sparse_rs",
)  # fmt: skip


def tried(
    session: Session,
    name: str,
    problems: list[Problem],
    gate: Callable[[], None],
    milliseconds: Callable[[list[Args]], float],
) -> Iterator[Row]:
    """Yield a row for each width on large batches in float32, and last the winner, by product of times.

    A width with another result cannot win. `gate` raises for a wrong op; `milliseconds(sets)` times one call.
    """
    try:
        from fastadv.ops.triton._tuned import Width, trying
    except ImportError as error:
        raise Skip(f"Triton is not installed ({error})") from error
    if not session.cuda:
        raise Skip("widths are tuned on a GPU alone")
    gate()
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

"""A step taken many times: as one captured CUDA graph, where these were asked for."""

from collections.abc import Callable, Hashable
from copy import copy
from dataclasses import replace
from typing import Any

from torch import Tensor

from fastadv.attacks.core.criterion import Criterion, OutsideTopK, WrongBy
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.search import Search
from fastadv.engine import Prepared
from fastadv.engine.graph import Graphs, Rows, Step
from fastadv.threat import Threat

# those that wait for no device
CRITERIA = (Criterion, OutsideTopK, WrongBy)

# what of a search a step may write
HOLDERS = ("best", "rows", "last")


def repeat(search: Search, step: Callable[[Search], None], count: int, name: Hashable) -> None:
    """Take a step `count` times.

    Where `freeze` was asked for CUDA graphs, the steps between two evaluations at which samples may leave are
    replays of one captured step.

    Args:
        search: which the step is given.
        step: takes one `gradient`, and remembers tensors in `search.rows` alone.
        count: how many steps to take.
        name: what the step does, with all that it depends on besides the search.
    """
    if not count:
        return
    with search.classifier.unreplayed():
        step(search)  # which may be the one that sets what the others remember
    left = count - 1
    while left:
        ahead = search.steps_ahead(left) if _alike(search) else 0
        if not (ahead and _replayed(search, step, ahead, name)):
            step(search)
            ahead = 1
        left -= ahead


def _alike(search: Search) -> bool:
    """Return whether the next steps launch the same work, which their tensors alone decide."""
    plan, problem = search.plan, search.problem
    return (
        search.classifier.ready_to_capture(search.x)
        and search.leaving is None
        and search.depth is None
        and problem.bounded is None
        and not search.plan.gradient  # whose random draws a graph would repeat
        and isinstance(plan.loss, str)  # another may hold a value for each sample
        and type(problem.criterion) in CRITERIA
        and search.dtype == search.x.dtype
    )


def _replayed(search: Search, step: Callable[[Search], None], times: int, name: Hashable) -> bool:
    """Return whether the step was taken `times` in a row by a graph."""
    classifier, given = search.classifier, _tensors(search)
    options = {key: value for key, value in vars(search.rows).items() if not isinstance(value, Tensor)}
    kind = name, search.plan.loss, search.plan.minimum, search.problem.criterion
    key = *kind, *without_rows(search.threat), *sorted(options.items())
    written = tuple(part for part in given if "." in part)

    def make(rows: Rows) -> Step:
        return _step_over(_over(rows, search, options), step, rows, written)

    def run(graphs: Graphs) -> list[Tensor]:
        return graphs(key, given, make, written, times)

    made = counted(classifier, run, times * len(search.x))
    if made is None:
        return False
    for part, tensor in zip(written, made, strict=True):
        setattr(*_place(search, part), tensor)
    search.count_replayed(times)
    return True


def counted(classifier: Prepared, run: Callable[[Graphs], list[Tensor]], samples: int) -> list[Tensor] | None:
    """Return run(graphs), which takes gradients of so many samples in all; None where it could not."""
    if not samples:
        return None
    made = classifier.replayed(run)
    if made is not None:
        classifier.forwards += samples
        classifier.backwards += samples
    return made


def uncounted(classifier: Prepared) -> Prepared:
    """Return the same model, for steps of a graph: padded rows and the capture itself do not count."""
    return copy(classifier)


def without_rows(threat: Threat) -> tuple[Hashable, ...]:
    """Return what a step knows of the threat, but for radii of single samples."""
    return type(threat), threat.box, None if radii(threat) is not None else threat.radius  # type: ignore[return-value]


def radii(threat: Threat) -> Tensor | None:
    """Return [B] where each sample has its own."""
    return threat.radius if isinstance(threat.radius, Tensor) and threat.radius.ndim else None


def _tensors(search: Search) -> dict[str, Tensor]:
    """Return all of a search that has one row a sample."""
    problem = search.problem
    parts: dict[str, Any] = {name: getattr(problem, name) for name in ("x", "y", "targets", "ids", "mask")}
    parts["radius"] = radii(search.threat)
    parts["aims"] = None if search.aims is search.targets else search.aims
    for holder in HOLDERS:
        parts |= {f"{holder}.{name}": value for name, value in vars(getattr(search, holder)).items()}
    return {name: value for name, value in parts.items() if isinstance(value, Tensor)}


def _place(search: Search, part: str) -> tuple[Any, str]:
    """Return the object and the name of a tensor that `_tensors` calls `part`."""
    holder, name = part.split(".")
    return getattr(search, holder), name


def _over(rows: Rows, search: Search, options: dict[str, Any]) -> Search:
    """Return a copy of `search` on the graph's static tensors; its samples never leave."""
    threat = search.threat.resized(rows["radius"]) if "radius" in rows else search.threat
    inputs = {name: rows.get(name) for name in ("x", "y", "targets", "ids", "mask")}
    problem = replace(search.problem, threat=threat, clean=None, **inputs)  # type: ignore[arg-type]
    best = Record(**{name: rows[f"best.{name}"] for name in vars(search.best)})
    over = search.over(problem, best, replace(search.plan, stop_early=False))
    over.classifier, over.best, over.aims = (
        uncounted(search.classifier),
        best,
        rows.get("aims", problem.targets),
    )
    over._first = False
    for name, value in options.items():
        setattr(over.rows, name, value)
    return over


def _step_over(over: Search, step: Callable[[Search], None], rows: Rows, written: tuple[str, ...]) -> Step:
    """Return the step that leaves what it has `written` in `rows`."""

    known = {part.removeprefix("rows.") for part in written} | vars(over.rows).keys()

    def run() -> None:
        for part in written:
            setattr(*_place(over, part), rows[part])
        step(over)
        if unknown := vars(over.rows).keys() - known:
            raise RuntimeError(f"a step remembers what its first did not set: {', '.join(sorted(unknown))}")
        made = {part: getattr(*_place(over, part)) for part in written}
        new = {part: tensor for part, tensor in made.items() if tensor is not rows[part]}
        # a step may have bound one row's tensor to another row; clone it before it is overwritten
        kept = {row.untyped_storage().data_ptr() for row in rows.values()}
        fixed = {part: t.clone() if t.untyped_storage().data_ptr() in kept else t for part, t in new.items()}
        for part, tensor in fixed.items():
            rows[part].copy_(tensor)

    return run

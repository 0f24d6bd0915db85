"""A step of a search taken many times: on a GPU replayed as a CUDA graph, where the model can be captured."""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor

from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.search import Search
from fastadv.engine.capture import Captures, Rows, Step
from fastadv.ops.logit_loss import KINDS

INPUTS = "x", "y", "targets", "ids", "clean"  # rows of the task


@dataclass(frozen=True)
class _Repeated:
    """What `repeat` is given of a step."""

    step: Callable[[Search], None]
    name: Hashable
    passes: tuple[int, int]
    before: Callable[[int, Search], None] | None


def repeat(
    search: Search, step: Callable[[Search], None], count: int, name: Hashable, more: int = 0,
    passes: tuple[int, int] = (1, 1), before: Callable[[int, Search], None] | None = None,
) -> None:  # fmt: skip
    """Take a step `count` times; samples leave in between.

    Args:
        search: which the step is given.
        step: remembers tensors in `search.rows` alone, which are there at first.
        count: how many steps to take.
        name: what the step does, with all that it depends on besides the search.
        more: how many of them will follow.
        passes: of a sample in each step, forward and backward.
        before: (number, search) makes what differs in step number 0, 1, 2 ..., such as random numbers, and
            leaves it in `search.rows`. It is no part of a graph.
    """
    for number in _without_graph(search, _Repeated(step, name, passes, before), count, more):
        if before is not None:
            before(number, search)
        step(search)


def _without_graph(search: Search, repeated: _Repeated, count: int, more: int) -> Iterator[int]:
    """Yield the numbers of the steps that no graph replays; where there is one, replay the others."""
    # the first gradient checks the model, and may be of the pass that gave the clean verdict
    done = 0 if search.met or not repeated.passes[1] else min(1, count)
    yield from range(done)
    replayed = 1
    while replayed and done < count:
        replayed = _replayed(search, repeated, done, count, more)
        done += replayed
    yield from range(done, count)


def _replayed(search: Search, repeated: _Repeated, first: int, count: int, more: int) -> int:
    """Return how many steps were replayed by a graph, until samples leave; 0 where there is none."""
    if search.leaving is not None or not _may_replay(search):
        return 0
    classifier, captures = search.classifier, _captures(search, repeated)
    if captures is None:
        return 0
    rows, options = _rows(search), _options(search)
    kind = repeated.name, search.plan.loss, search.plan.stop_early, search.problem.criterion
    key = *kind, *search.threat.step_key, *sorted(options.items())
    if (graph := captures.take(key, rows, count - first + more)) is None:
        return 0
    written = tuple(part for part in rows if "." in part)
    done, size, passed, leave = first, len(search.x), search.evaluations, False

    def make(static: Rows) -> Step:
        return _step_over(_over(static, search, options), repeated.step, static, written)

    over, before = _over(graph.rows, search, options), repeated.before
    while done < count and not leave:
        times = search.steps_ahead(count - done)
        if before is not None:
            times = 1
            _step_over(over, partial(before, done), graph.rows, written)()
        with classifier.uncounted():  # rows are padded, and the capture is no step
            replayed = captures.run(graph, make, times)
        if not replayed:
            search.evaluations = passed
            return 0  # the steps are taken again, from the tensors of the search, which did not change
        done += times
        search.evaluations += times * repeated.passes[0]
        leave = search.shrinks(graph.rows["best.success"][:size])
    if repeated.passes[1] and bool(graph.rows["best.not_finite"].any()):
        search.evaluations = passed
        return 0  # only steps that are taken as they are remember the last answer
    forwards, backwards = repeated.passes
    classifier.forwards += forwards * (done - first) * size
    classifier.backwards += backwards * (done - first) * size
    _write(search, {part: graph.rows[part][:size].clone() for part in written})
    captures.give_back(graph)
    classifier.replayed = captures
    search.replayed(leave)
    return done - first


def _may_replay(search: Search) -> bool:
    """Return whether a step depends on nothing but rows and what its key names, and reads nothing."""
    criterion, loss = search.problem.criterion, search.plan.loss
    if criterion.outputs == "any":  # whose losses are its methods; another function may hold anything
        fixed = getattr(loss, "__self__", None) is criterion and criterion.fixed
    else:
        fixed = criterion is WRONG and (search.plan.minimum or loss in KINDS)
    return fixed and search.lean


def _captures(search: Search, repeated: _Repeated) -> Captures | None:
    """Return the graphs of what answers in a step: scores in half precision are the model's own."""
    classifier = search.classifier
    if not repeated.passes[1] and classifier.search_dtype != classifier.dtype:
        classifier = classifier.as_given
    return classifier.captures(search.x)


def _rows(search: Search) -> Rows:
    """Return all of a search that has one row a sample; what a step may write has a dot in its name."""
    parts: dict[str, Any] = {name: getattr(search.problem, name) for name in INPUTS}
    parts["radius"] = search.threat.radii
    parts["aims"] = None if search.aims is search.targets else search.aims
    for holder in ("best", "rows"):
        parts |= {f"{holder}.{name}": value for name, value in vars(getattr(search, holder)).items()}
    return {name: value for name, value in parts.items() if isinstance(value, Tensor)}


def _options(search: Search) -> dict[str, Any]:
    """Return what the rule remembers of all samples."""
    return {name: value for name, value in vars(search.rows).items() if not isinstance(value, Tensor)}


def _write(search: Search, values: Rows) -> None:
    for part, value in values.items():
        holder, name = part.split(".")
        setattr(getattr(search, holder), name, value)


def _over(rows: Rows, search: Search, options: dict[str, Any]) -> Search:
    """Return a copy of `search` on the static rows of a graph; its samples never leave."""
    threat = search.threat.resized(rows["radius"]) if "radius" in rows else search.threat
    inputs = {name: rows.get(name) for name in INPUTS}
    task = replace(search.problem, threat=threat, **inputs)  # type: ignore[arg-type]
    over = search.over(task, Record(**{name: rows[f"best.{name}"] for name in vars(search.best)}))
    over.aims = rows.get("aims", task.targets)
    over.met = over.stays = True
    vars(over.rows).update(options)
    return over


def _step_over(over: Search, step: Callable[[Search], None], rows: Rows, written: tuple[str, ...]) -> Step:
    """Return the step that leaves in `rows` what it has `written`."""

    def run() -> None:
        _write(over, {part: rows[part] for part in written})
        step(over)
        values = {part: attrgetter(part)(over) for part in written}
        # copied first, as a step may have bound one row's tensor to another row
        new = {part: tensor.clone() for part, tensor in values.items() if tensor is not rows[part]}
        for part, tensor in new.items():
            rows[part].copy_(tensor)

    return run

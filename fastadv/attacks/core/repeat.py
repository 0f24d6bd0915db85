"""A step taken many times: on a GPU replayed as a CUDA graph, where the model can be captured.

`repeat` takes steps of a search; `Walk` takes steps from tensors alone, for training and for data sets.
"""

from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

from torch import Tensor

from fastadv.attacks.core.checks import StepSize
from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.record import Record
from fastadv.attacks.core.search import Search
from fastadv.engine import Prepared
from fastadv.engine.capture import Captures, Rows, Step
from fastadv.ops.logit_loss import KINDS
from fastadv.threat import Threat

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
    key = *kind, *without_rows(search.threat), *sorted(options.items())
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
    parts["radius"] = radii(search.threat)
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


def without_rows(threat: Threat) -> tuple[Hashable, ...]:
    """Return what a step knows of the threat, but for radii of single samples."""
    return type(threat), threat.box, None if radii(threat) is not None else threat.radius  # type: ignore[return-value]


def radii(threat: Threat) -> Tensor | None:
    """Return [B] where each sample has its own."""
    return threat.radius if isinstance(threat.radius, Tensor) and threat.radius.ndim else None


# (model, rows) -> what gives the gradient at points like `x_adv` of the rows
Gradients = Callable[[Prepared, Rows], Callable[[Tensor], Tensor]]


@dataclass
class Walk:
    """Projected steps along a gradient, on a GPU replayed from a CUDA graph where there can be one."""

    threat: Threat
    look: Gradients  # makes what asks a model for the gradient
    step_size: StepSize
    name: Hashable = None  # what `look` does, with all it depends on besides the rows; None for no graph
    copies: int = 1  # points that `look` passes for each sample

    def rows(self, x_adv: Tensor, x: Tensor, **others: Tensor | None) -> Rows:
        """Return all that has one row a sample; `x_adv` is what the steps change."""
        steps = self.step_size if isinstance(self.step_size, Tensor) and self.step_size.ndim else None
        named = {"x_adv": x_adv, "x": x, "radius": radii(self.threat), "step_size": steps, **others}
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    def __call__(self, classifier: Prepared, rows: Rows, steps: int) -> Tensor:
        step = self._step(classifier, rows)
        for done in range(steps):
            if done == 1:  # the first one has met the model, and checked the arguments
                if (moved := self._replayed(classifier, rows, steps - done)) is not None:
                    return moved
                step = self._step(classifier, rows)
            step()
        return rows["x_adv"]

    def _step(self, classifier: Prepared, rows: Rows) -> Step:
        threat = self.threat.resized(rows["radius"]) if "radius" in rows else self.threat
        gradient, x_adv = self.look(classifier, rows), rows["x_adv"]

        def step() -> None:
            threat.step_(x_adv, gradient(x_adv), rows["x"], rows.get("step_size", self.step_size))

        return step

    def _replayed(self, classifier: Prepared, rows: Rows, steps: int) -> Tensor | None:
        """Return the points after so many steps of a graph; None where there is none."""
        x_adv = rows["x_adv"]
        passed = x_adv[:1].expand(self.copies * len(x_adv), *x_adv.shape[1:])
        captures = None if self.name is None else classifier.captures(passed)
        if captures is None or any(steps.shape[:1] != x_adv.shape[:1] for steps in rows.values()):
            return None  # which the step refuses in words
        key = self.name, *without_rows(self.threat), None if "step_size" in rows else self.step_size
        graph = captures.take(key, rows, steps)
        if graph is None:
            return None
        with classifier.uncounted():
            replayed = captures.run(graph, partial(self._step, classifier), steps)
        if not replayed:
            return None
        classifier.count(steps * len(passed))
        moved = graph.rows["x_adv"][: len(x_adv)].clone()
        captures.give_back(graph)
        return moved

"""A step of a search taken many times: on a GPU replayed as a CUDA graph, where the model can be captured."""

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from functools import partial

from fastadv._waiting import steps_ahead
from fastadv.attacks.core.criterion import WRONG
from fastadv.attacks.core.search import Search
from fastadv.engine.capture import Captures, Rows, Step
from fastadv.ops.logit_loss import KINDS


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
    replays = _Replays(step, name, passes, before)
    done, replayed = 0, 1
    while done < count:
        # the first gradient checks the model, and may be of the pass that gave the clean verdict
        if replayed and (search.met or not passes[1]):
            replayed = replays.take(search, done, count, more)
            done += replayed
        else:
            if before is not None:
                before(done, search)
            step(search)
            done += 1


@dataclass(frozen=True)
class _Replays:
    """Takes steps of `repeat` by a graph, on the rows of a graph in place of those of a search."""

    step: Callable[[Search], None]
    name: Hashable
    passes: tuple[int, int]
    before: Callable[[int, Search], None] | None

    def take(self, search: Search, first: int, count: int, more: int) -> int:
        """Return how many steps from `first` on a graph took, until samples leave; 0 where there is none."""
        captures = self._captures(search) if search.leaving is None and _may_replay(search) else None
        if captures is None:
            return 0
        classifier, size, (forwards, backwards) = search.classifier, len(search.x), self.passes
        graph = captures.take(self._key(search), search.state.tensors, count - first + more)
        if graph is None:
            return 0

        def make(rows: Rows) -> Step:
            return partial(self.step, _staying(search, rows))

        here, evaluations = _staying(search, graph.rows), search.evaluations
        done, leave = first, False
        while done < count and not leave:
            times = count - done
            if self.before is not None:
                times = 1
                self.before(done, here)
            elif search.plan.stop_early:
                times = steps_ahead(search.evaluations, times, search.x.device)
            with classifier.uncounted():  # rows are padded, and the capture is no step
                replayed = captures.run(graph, make, times)
            if not replayed:
                search.evaluations = evaluations
                return 0  # the steps are taken again, from the tensors of the search, which did not change
            done += times
            search.evaluations += times * forwards
            leave = search.shrinks(here.best.success[:size])
        if backwards and bool(here.best.not_finite.any()):
            search.evaluations = evaluations
            return 0  # only steps that are taken as they are remember the last answer
        classifier.forwards += forwards * (done - first) * size
        classifier.backwards += backwards * (done - first) * size
        best = here.best.each(lambda _, value: value[:size].clone())
        rows = here.rows.each(lambda _, value: value[:size].clone())
        captures.give_back(graph)
        classifier.replayed = captures
        search.go_to(best, rows)
        if leave:
            search.drop_broken()
        return done - first

    def _captures(self, search: Search) -> Captures | None:
        """Return the graphs of what answers in a step: scores in half precision are the model's own."""
        classifier = search.classifier
        if not self.passes[1] and classifier.search_dtype != classifier.dtype:
            classifier = classifier.as_given
        return classifier.captures(search.x)

    def _key(self, search: Search) -> Hashable:
        """Return all that a step depends on besides the tensors of the state and the model."""
        plan, options = search.plan, search.rows.options
        about = plan.loss, plan.stop_early, search.problem.criterion, *search.threat.step_key
        return self.name, *about, *sorted(options.items())


def _may_replay(search: Search) -> bool:
    """Return whether a step depends on nothing but rows and what its key names, and reads nothing."""
    criterion, loss = search.problem.criterion, search.plan.loss
    if criterion.outputs == "any":  # whose losses are its methods; another function may hold anything
        fixed = getattr(loss, "__self__", None) is criterion and criterion.fixed
    else:
        fixed = criterion is WRONG and (search.plan.minimum or loss in KINDS)
    return fixed and search.lean


def _staying(search: Search, rows: Rows) -> Search:
    """Return the search on the rows of a graph, which its steps write in place; no sample ever leaves."""
    part = search.at(search.state.on(rows))
    part.met = part.stays = True
    return part

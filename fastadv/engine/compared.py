"""Whether the gradient of a search is that of the model, and what is switched off where it is not."""

from collections.abc import Callable, Hashable
from typing import TYPE_CHECKING

from torch import Tensor, nn

from fastadv.engine import guard
from fastadv.engine.simpler import COMPILED, uncompiled
from fastadv.engine.trusted import captures

if TYPE_CHECKING:
    from fastadv.engine.search_twin import SearchTwin


def compared(search: "SearchTwin", used: Hashable, x: Tensor, by_logits: Tensor, gradient: Tensor) -> bool:
    """Whether `gradient` may be used: that of by_logits [B, K] @ logits at x, by a pass that `used` rewrites.

    The first pass of each kind is compared with the model as given. Where that does not agree, what was wrong
    is switched off, and the pass is to be taken again.
    """
    if not (used or search.differs) or not len(x) or x.device.type == "meta" or captures(x):
        return True
    if search.estimates:  # from logits, which were compared
        return True
    if search.replays:  # a pass of its rows, without the spare ones, was compared before
        return True
    if search.trusted.knows(used, x):
        return True
    with search.lock:
        if search.trusted.knows(used, x):  # by another thread, meanwhile
            return True
        ways = guard.Ways(searched=search.pull, given=search.pull_given, plain=search.pull_plain)

        def agrees(found: Tensor) -> bool | None:
            return guard.agrees(ways, x, by_logits, found, search.rounds or search.dtype)

        agreed = agrees(gradient)
        if agreed:
            search.trusted.add(used, x)
        if agreed is not False:  # where there is nothing to compare, the next pass of that kind is
            return True
        remembered = search.trusted
        culprit = without_culprit(search, lambda: agrees(search.pull(x, by_logits)) is not False)
        remembered.off |= search.rewriting.off
        search.notes.warn(left_out(culprit, "the gradient of the search was not that of the model"))
        return False


def without_culprit(search: "SearchTwin", agrees: Callable[[], bool]) -> str | None:
    """Switch off what is wrong, one thing if that is enough; its name. None where all had to go."""
    rewriting, off, names = search.rewriting, search.rewriting.off, search.rewriting.names
    for name in names:
        rewriting.switch_off(name)
        if agrees():
            return name
        rewriting.restore(off)
    if len(names) > 1:
        rewriting.switch_off()
        if agrees():
            for name in names:  # some of them may be right
                rewriting.restore(rewriting.off - {name})
                if not agrees():
                    rewriting.switch_off(name)
            return " and ".join(name for name in names if name in rewriting.off)
        rewriting.restore(off)
    if search.compiled:
        model, dtype = search.model, search.weights
        search.use(uncompiled(model), dtype)
        if agrees():
            return COMPILED
        search.use(model, dtype)
    if search.channels_last and isinstance(search.model, nn.Module):
        search.use_layout(False)
        if agrees():
            return "channels-last"
        search.use_layout(True)
    search.use_given()
    return None


def left_out(name: str | None, why: str) -> str:
    """The note for what was switched off; None stands for all."""
    return f"fell back to the model as given: {why}" if name is None else f"not {name}: {why}"

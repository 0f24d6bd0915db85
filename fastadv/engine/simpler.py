"""What a search goes on without, where a pass fails with it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor, nn

from fastadv.engine.copying.closures import ORIGINAL
from fastadv.engine.copying.twin import unwrap

if TYPE_CHECKING:
    from fastadv.engine.search_twin import SearchTwin

Model = Callable[[Tensor], Tensor]
T = TypeVar("T")

COMPILED = "compiled"  # a note


def simpler(search: "SearchTwin", run: Callable[[], T], error: Exception) -> T:
    """run() again, without what it failed with, from now on; raises `error` where it always fails."""
    model, dtype, channels_last = search.model, search.weights, search.channels_last
    off, whole, why = search.rewriting.off, search.whole, first_line(error)
    for note, instead_of, change in _changes(search, why):
        change()
        try:
            made = run()
        except Exception:
            search.rewriting.restore(off)
            search.use_layout(channels_last)
            search.whole = whole
            if search.model is not model:
                search.use(model, dtype)
            continue
        if instead_of:
            search.notes.warn(f"{note} ({why})", instead_of=instead_of)
        else:
            search.notes.add(f"{note} ({why})")
        return made
    raise error


def _changes(search: "SearchTwin", why: str) -> Iterator[tuple[str, str, Callable[[], None]]]:
    """(note, the note that no longer holds, change) of what may let a pass succeed."""
    if search.compiled:
        plain = partial(search.use, uncompiled(search.model), search.weights)
        yield f"not {COMPILED}: the compiled search twin failed", COMPILED, plain
    if not isinstance(search.model, nn.Module):
        return
    if not search.whole and "use_reentrant" in why:
        yield "gradients by backward: the model refused grad", "", partial(setattr, search, "whole", True)
    contiguous = partial(search.use_layout, False)
    if search.channels_last:
        yield "not channels-last: the model failed", "", contiguous
    if search.rewrote:
        yield "not rewritten: the rewritten model failed", "", search.rewriting.switch_off
    if search.rewrote and search.channels_last:

        def both() -> None:
            contiguous()
            search.rewriting.switch_off()

        yield "not rewritten, nor channels-last: the model failed", "", both


def uncompiled(model: Model) -> Model:
    """What was compiled; the model itself where nothing was."""
    return unwrap(model) if isinstance(model, nn.Module) else getattr(model, ORIGINAL, model)


def first_line(error: Exception) -> str:
    """Of its message; its type where it has none."""
    return str(error).partition("\n")[0] or type(error).__name__

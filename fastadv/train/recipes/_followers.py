"""Followers: what a run attacks of the models that it trains."""

from collections.abc import Hashable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from torch import nn

from fastadv._torch import compiled_call
from fastadv.engine import Frozen, Plain, Prepared
from fastadv.engine.arguments import Outputs
from fastadv.engine.freeze import follow
from fastadv.engine.precision import Precision
from fastadv.engine.stamp import is_seen

MOST = 8  # followers of a run


class Followers:
    """What a run attacks: of each model that trains a Frozen, which takes its values before each batch."""

    # Made anew where parts, modes or hooks have changed, or where tensors lie; a model whose changes cannot
    # be seen is attacked plainly. The last MOST models have one: a recipe may make one for each batch.

    def __init__(
        self, precision: Precision = "fp32", cuda_graph: bool | None = None, compile: bool = False
    ) -> None:
        self.precision, self.cuda_graph, self.compile = precision, cuda_graph, compile
        self._held: dict[Hashable, Frozen] = {}

    @property
    def frozen(self) -> list[Frozen]:
        return [*self._held.values()]

    def replay(self, cuda_graph: bool | None) -> None:
        """Let steps be replayed, or not, from now on."""
        if cuda_graph != self.cuda_graph:
            self.cuda_graph, self._held = cuda_graph, {}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Let `follower` give these, inside, in this thread."""
        before = _in_use.set(self)
        try:
            yield
        finally:
            _in_use.reset(before)

    def of(self, model: nn.Module, outputs: Outputs = "classes") -> Prepared:
        """Return what to attack of the model as it is now."""
        held = self._held.pop((id(model), outputs), None)
        if held is None or not held.refresh():
            if not is_seen(model):
                return Plain(model, outputs=outputs)
            compiled = compiled_call(model) is not None
            precision = "fp32" if compiled and not self.compile else self.precision
            held = follow(model, precision, compiled or self.compile, self.cuda_graph, outputs)
        self._held[id(model), outputs] = held
        while len(self._held) > MOST:
            del self._held[next(iter(self._held))]
        return held


_in_use: ContextVar[Followers | None] = ContextVar("followers", default=None)


def in_run() -> bool:
    """Return whether a run calls, which has checked its batch."""
    return _in_use.get() is not None


def follower(model: nn.Module | Prepared, outputs: Outputs = "classes") -> Prepared:
    """Return what to attack for one batch, in eval mode; plain outside a run, and one of these as it is."""
    if isinstance(model, Plain) or (isinstance(model, Frozen) and model.options.follow):
        return model
    followers = _in_use.get()
    if followers is None or isinstance(model, Prepared):
        return Plain(model, outputs=outputs)
    return followers.of(model, outputs)

"""The search copy of a frozen model: how it passes batches, and how it is compared with the model."""

import logging
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from threading import RLock
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from fastadv import losses, rng
from fastadv._tf32 import rounds_as
from fastadv.engine import guard
from fastadv.engine.bound import Gradient
from fastadv.engine.capture import Captures, graphs_of, in_step, kind_of, passes_alike
from fastadv.engine.checked import CheckedModel
from fastadv.engine.copying.copier import origin_of, take_values
from fastadv.engine.copying.fold import Folds
from fastadv.engine.guard import HALVES, Format
from fastadv.engine.layout import CHANNELS_LAST, laid_out
from fastadv.engine.module import unwrap
from fastadv.engine.parts import Parts
from fastadv.engine.plain import Plain
from fastadv.engine.precision import HALF, Options, no_autocast, tf32
from fastadv.engine.prepared import Directions, Model
from fastadv.engine.pull import pull, pull_each, pull_scaled
from fastadv.engine.rewrite import Lens, Rewriting
from fastadv.engine.room import GRADIENT, room_of
from fastadv.ops._step import may_be_narrow
from fastadv.rng import generators_kept

T = TypeVar("T")
log = logging.getLogger("fastadv")

LOGITS, JACOBIAN = "logits", "jacobian"  # kinds of passes beside GRADIENT
ROWS = 16  # of a batch that are watched and compared
# bytes a row of an activation, below which a BatchNorm takes less time than the checks of a folded one
SMALL = 1 << 16
WRONG = "of the search copy differed from the model's by more than rounding"


class Apart(Exception):
    """A search copy does not answer as the model does."""


class Notes:
    """Texts for `Frozen.notes`."""

    def __init__(self, texts: tuple[str, ...] = ()) -> None:
        self.texts = texts

    def add(self, *notes: str) -> None:
        self.texts = tuple(dict.fromkeys((*self.texts, *notes)))

    def warn(self, note: str, instead_of: str = "") -> None:
        """Take a note that the user should see once; `instead_of` is one that no longer holds."""
        if note not in self.texts:
            log.warning("freeze: %s", note)
        self.texts = (*(text for text in self.texts if text not in (note, instead_of)), note)


class SearchCopy:
    """Logits and gradients by a copy of the model that computes in another way, or by none that is `idle`.

    It is compared with the model once for each dtype and shape of a sample and kind of pass, by 16 rows.
    Where logits depend on the rest of their batch in another way than by BatchNorm, parts of a batch may
    have other ones in the search, but not in the verdict.
    """

    def __init__(
        self, model: Model, module: nn.Module | None, rewriting: Rewriting, plain: Plain, options: Options,
        notes: Notes,
    ) -> None:  # fmt: skip
        """Search by `model`, a copy of `module` that is to be rewritten, or a function."""
        self.model, self.module, self.rewriting, self.scoring = model, module, rewriting, rewriting
        self.options, self.notes, self.checked = options, notes, CheckedModel(model)
        self.dtype, self.sees, half = plain.dtype, plain.sees, HALF.get(options.precision)
        self.weights, self.half = half or plain.dtype, (half or plain.dtype) in HALVES
        self.room, self.lock = room_of(plain.source), RLock()
        self.tf32 = options.precision == "tf32"
        self.ordinary = not (options.special or options.follow)  # for few values the model as given is faster
        # kinds of passes for which the copy answers, not the model as given
        self.kinds = set() if model is plain.model else {GRADIENT, JACOBIAN, LOGITS}
        if self.half:  # which does not tell apart losses that attacks without a gradient compare
            self.kinds.discard(LOGITS)
        if options.compile:  # a compiled backward frees what the next one needs
            self.kinds.discard(JACOBIAN)
        # dtypes and shapes of samples, with a gradient or not, whose passes were compared with the model's
        self.compared = set[Hashable]()
        self.parts = Parts(rewriting.model, "winograd" in rewriting.names)

    @property
    def idle(self) -> bool:
        """Whether the model as given answers alone."""
        return not self.kinds

    @property
    def format(self) -> Format:
        """The precision of passes; None where the weights have not exactly one."""
        return "tf32" if self.tf32 else self.weights

    @property
    def plain(self) -> bool:
        """Whether its logits are those of the model as given, to the last bit."""
        return self.idle or (self.rewriting.exact and not self.options.special)

    @property
    def channels_last(self) -> bool:
        return CHANNELS_LAST.name in self.rewriting.names

    def layout(self, x: Tensor) -> Tensor:
        return laid_out(x, self.channels_last)

    def leave(self, why: str) -> None:
        """Let the model as given search alone."""
        self.kinds = set()
        self.notes.warn(f"fell back to the model as given: {why}")

    def prepare(self, x: Tensor, plain: Plain) -> None:
        """Pass x to see which layers are folded."""
        if Folds.name in self.rewriting.names:
            plain.forwards += len(x)
            self._forward(self._ready(x), self.rewriting.watching())
            self._fold(self.rewriting.folds, x.is_cpu)
        if not (self.rewriting or self.options.special):
            self.kinds = set()

    def _fold(self, folds: Folds, on_cpu: bool) -> None:
        """Fold what was seen; not for scores where activations are small, for which a GPU waits, too."""
        self.notes.add(f"folded {len(folds.pairs)} BatchNorm")
        if folds.widest < SMALL:
            self.scoring = self.rewriting.without(Folds.name)
            self.rewriting = self.rewriting if on_cpu else self.scoring
        elif self.ordinary:  # scores read no others
            folds.release(self._origin())
        if self.weights != self.dtype:
            folds.take(self._origin())

    def _origin(self) -> dict[int, Tensor]:
        return origin_of(cast(nn.Module, self.model), cast(nn.Module, self.module))

    def refresh(self) -> None:
        """Take the current values of a model that trains."""
        if self.module is not None and not self.idle:
            with torch.inference_mode(False), torch.no_grad():
                self.rewriting.folds.take(take_values(unwrap(cast(nn.Module, self.model)), self.module))

    def in_parts(self, kind: str, step: Callable[..., T], x: Tensor, *rows: Any, whole: bool = False) -> T:
        """Return step(x, *rows) of parts in turn that are fast and fit into memory, unless `whole`."""
        if whole:
            return step(x, *rows)
        return self.room.passes(kind, step, x, *rows, apart=lambda: True, most=self.parts.full(x))

    def logits(self, x: Tensor) -> Tensor:
        """Return the logits of one pass of x; a step of `in_parts`."""
        return self._forward(self._ready(x), self._lens(self.scoring))

    def gradient(
        self, x: Tensor, y: Tensor | None, targets: Tensor | None, *, loss: losses.Loss, direction: bool
    ) -> Gradient:
        """See `Frozen.input_gradient`; a step of `in_parts`."""
        leaf, attached = self._followed(x)
        # copied, since they may be a part of x itself
        logits = attached.detach().clone()
        value, by_logits = losses.loss_and_grad(logits, cast(Tensor, y), loss, targets, direction)
        gradient = self._backward(attached, leaf, by_logits)
        return value, logits, gradient if direction and may_be_narrow(gradient, x) else gradient.to(x.dtype)

    def jacobian(
        self, x: Tensor, directions: Directions, reduce: Callable[[Tensor], Tensor] | None, passes: int
    ) -> tuple[Tensor, Tensor]:
        """See `Frozen.jacobian`."""
        leaf, attached = self._followed(x)
        for _ in range(passes - 1):
            attached = attached + self._forward(leaf, self._lens(self.rewriting))
        attached = attached / passes if passes > 1 else attached
        logits = attached.detach().clone()
        back = partial(self._backward, attached, leaf, retain_graph=True)
        return logits, pull_each(x, logits, directions, reduce, back)[1]

    def knows(self, x: Tensor, kind: str = GRADIENT) -> bool:
        """Return whether passes of rows like x were compared with the model's; in a graph none can be."""
        return _kind(x, kind) in self.compared or in_step() or not len(x)

    def compare(self, plain: Plain, x: Tensor, kind: str) -> None:
        """Raise Apart where passes of rows like x are not those of the model, by 16 rows."""
        # what a randomized model draws next does not depend on what was compared
        with self.lock, generators_kept(x.device):
            same, what = self._same(plain, x[:ROWS].detach(), kind)
            if same is False:
                raise Apart(f"the {what} {WRONG}")
            self.parts.measure(partial(self._probe, plain), x)
        if same:  # or else there was nothing to compare, and the next pass of this kind may have something
            self.compared.add(_kind(x, kind))

    def _same(self, plain: Plain, x: Tensor, kind: str) -> tuple[bool | None, str]:
        """Return whether answers at x differ by rounding alone, None where there are none; and which do."""
        expected, gradient, found, pulled = self.in_parts("compared", partial(self._both, plain, kind), x)
        same = guard.same_logits(found, expected, self.formats(x.device))
        if not same or kind == LOGITS:
            return same, "logits"
        if self.half:
            same, cosine = guard.same_direction(pulled, gradient)
            name = str(self.weights).removeprefix("torch.")
            self.notes.add(f"{name} gradients: mean cosine with the model's {cosine:.2f}")
            return same, "gradient"

        def beside(nudge: int) -> Tensor:
            step = 2 ** (nudge % 4) * 16 * torch.finfo(x.dtype).eps * max(float(x.abs().amax()), 1e-3)
            noise = rng.uniform(x[0].numel(), 0, torch.arange(len(x), device=x.device), nudge).view(x.shape)
            return _answer(plain, x + (step * (noise - 0.5)).to(x.dtype), kind)[1]

        return guard.same_gradient(pulled, gradient, rounds_as(self.format, x.device), beside), "gradient"

    def _both(self, plain: Plain, kind: str, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return logits and gradients at x of the model as given and of the copy; x for one not asked for."""
        expected, gradient = _answer(plain, x, kind)
        plain.forwards += len(x)
        if kind == LOGITS:
            return expected, gradient, self.logits(x), x
        with torch.enable_grad():
            leaf, attached = self._followed(x)
        logits = attached.detach().clone()
        plain.backwards += len(x)
        return expected, gradient, logits, self._backward(attached, leaf, _direction(logits))

    def formats(self, device: torch.device) -> list[Format]:
        """Return the formats by which logits of the copy and of the model as given round."""
        return [rounds_as(each, device) for each in (self.dtype, self.format)]

    def captures(self, x: Tensor) -> Captures | None:
        """See `Frozen.captures`."""
        model = self.model
        if not isinstance(model, nn.Module) or not self.knows(x):
            return None
        kind, alike = kind_of(unwrap(model)), partial(passes_alike, unwrap(model), self.once, x)
        return Captures(graphs_of(self), kind, (model, self.rewriting), alike) if kind else None

    def once(self, x: Tensor) -> Tensor:
        """Return the logits of one pass of x, rewritten like a pass with a gradient."""
        return self._forward(self._ready(x), self._lens(self.rewriting))

    def _probe(self, plain: Plain, x: Tensor) -> Tensor:
        plain.forwards += len(x)
        return self.once(x)

    def _ready(self, x: Tensor) -> Tensor:
        return self.layout(x).to(self.sees(x.dtype) if self.weights == self.dtype else self.weights)

    def _lens(self, rewriting: Rewriting) -> Lens | None:
        """Return the lens of a pass; None where nothing is rewritten."""
        return rewriting.lens() if rewriting else None

    def _precisely(self, device: str) -> AbstractContextManager[object]:
        """Compute in the precision of the copy inside, whatever autocast is on around."""
        return tf32(device) if self.tf32 else no_autocast(device)

    def _forward(self, x: Tensor, lens: Lens | None) -> Tensor:
        """Return the logits of x, which is ready, through `lens`."""
        with self._precisely(x.device.type):
            logits = self.checked(x, lens=lens)
        if lens is not None:
            # a graph may hold on to what it records
            lens.finish(logits, replays=in_step())
            self.notes.add(*self.rewriting.notes(lens.used))
        return logits if logits.requires_grad else logits.clone()  # as what stays

    def _followed(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x as a leaf, and logits that follow it."""
        leaf = self._ready(x).detach().requires_grad_()
        return leaf, self._forward(leaf, self._lens(self.rewriting))

    def _backward(
        self, attached: Tensor, leaf: Tensor, by_logits: Tensor, retain_graph: bool = False
    ) -> Tensor:
        """Return `pull` in the copy's precision, scaled for float16, where gradients would underflow."""
        # the lens is for what a checkpoint computes again
        with (
            self._precisely(leaf.device.type),
            self._lens(self.rewriting) or nullcontext(),
            self.checked.differentiated(),
        ):
            scaled = pull_scaled if self.weights == torch.float16 else pull
            return scaled(attached, leaf, by_logits, retain_graph)


def _answer(plain: Plain, x: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """Return the logits of the model as given, and the gradient of `_direction` where one is asked for."""
    x = x.to(plain.sees(x.dtype)).contiguous()
    if kind == LOGITS:
        return plain.verdict(x), x
    logits, gradients = plain.jacobian(x, lambda logits: _direction(logits)[:, None])
    return logits, gradients[:, 0]


def _direction(logits: Tensor) -> Tensor:
    """Return a gradient at logits [B, K] in which all take part, always the same."""
    draws = rng.uniform(logits.shape[1], 0, torch.arange(len(logits), device=logits.device))
    return (draws - 0.5).to(logits)


def _kind(x: Tensor, kind: str) -> Hashable:
    """Return what passes share that are compared once; a single row takes ways of its own."""
    return x.dtype, x.shape[1:], len(x) == 1, kind == LOGITS

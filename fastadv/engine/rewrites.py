"""The list of all rewrites, in the order in which they are tried, and which of them are switched off."""

import os
from collections.abc import Iterable

import torch
from torch import nn

from fastadv._torch import holds_compiled
from fastadv.engine.copying.fold import Folds
from fastadv.engine.cpu.norms import NORMS
from fastadv.engine.cpu.onednn import LINEAR, gains
from fastadv.engine.cpu.thin import THIN
from fastadv.engine.cpu.winograd import WINOGRAD
from fastadv.engine.layout import CHANNELS_LAST, VIEWS
from fastadv.engine.rewrite import Rewrite, Subject
from fastadv.errors import InputError

VARIABLE = "FASTADV_WITHOUT"

FOLD = Rewrite(Folds.name, "", lambda subject: subject.normalizes and not subject.exact)

REWRITES = (FOLD, WINOGRAD, THIN, LINEAR, VIEWS, NORMS, CHANNELS_LAST)
NAMES = tuple(rewrite.name for rewrite in REWRITES)


def applicable(
    model: nn.Module, dtype: torch.dtype | None, exact: bool, without: Iterable[str] = ()
) -> list[Rewrite]:
    """Return the rewrites for a model that is to compute in `dtype`; `exact`: without rounding any logit."""
    # the compiler has looked at its parts
    if any(map(holds_compiled, model.modules())):
        return []
    subject = Subject(model, dtype, exact)
    # where little is to be gained, the search is the model as given, to the bit
    subject.exact |= subject.on_cpu and not (subject.convolves or subject.normalizes or gains(model))
    return [rewrite for rewrite in REWRITES if rewrite.name not in without and rewrite.applies(subject)]


def switched_off() -> tuple[str, ...]:
    """Return the rewrites that FASTADV_WITHOUT names; InputError for one that does not exist."""
    return checked_names(filter(None, map(str.strip, os.environ.get(VARIABLE, "").split(","))), VARIABLE)


def checked_names(names: object, what: str) -> tuple[str, ...]:
    """Return the names in order, each once; InputError unless all are those of rewrites."""
    if isinstance(names, str) or not isinstance(names, Iterable):
        raise InputError(f"{what}: expected names of rewrites, such as ('winograd',), got {names!r}")
    given = set(names)
    unknown = [name for name in given if name not in NAMES]
    if unknown:
        raise InputError(f"{what}: expected names out of {', '.join(NAMES)}, got {unknown[0]!r}")
    return tuple(name for name in NAMES if name in given)

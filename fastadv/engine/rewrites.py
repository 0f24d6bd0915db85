"""The list of all rewrites, in the order in which they are tried."""

import torch
from torch import nn

from fastadv._torch import NormBase, holds_compiled
from fastadv.engine.copying.fold import Folds
from fastadv.engine.cpu.norms import NORMS
from fastadv.engine.cpu.onednn import LINEAR, gains
from fastadv.engine.cpu.thin import THIN
from fastadv.engine.cpu.winograd import WINOGRAD
from fastadv.engine.layout import CHANNELS_LAST, VIEWS
from fastadv.engine.rewrite import Rewrite, Subject

FOLD = Rewrite(Folds.name, "", lambda subject: subject.normalizes and not subject.exact)

REWRITES = (FOLD, WINOGRAD, THIN, LINEAR, VIEWS, NORMS, CHANNELS_LAST)


def applicable(model: nn.Module, dtype: torch.dtype | None) -> list[Rewrite]:
    """Return the rewrites for a model that is to compute in `dtype`."""
    # the compiler has looked at its parts
    if any(map(holds_compiled, model.modules())):
        return []
    subject = Subject(model, dtype)
    # where little is to be gained, the search is the model as given, to the bit
    subject.exact = subject.on_cpu and not (subject.convolves or subject.normalizes or gains(model))
    if subject.exact and not any(isinstance(part, NormBase) for part in model.modules()):
        return []  # to look at each call would take a tenth to a quarter of a small model's time
    return [rewrite for rewrite in REWRITES if rewrite.applies(subject)]

"""The list of all rewrites, in the order in which they are tried."""

import torch
from torch import nn

from fastadv._torch import holds_compiled
from fastadv.engine.cpu.onednn import LINEAR, gains
from fastadv.engine.cpu.thin import THIN
from fastadv.engine.cpu.winograd import WINOGRAD
from fastadv.engine.layout import CHANNELS_LAST, VIEWS
from fastadv.engine.rewrite import Rewrite, Subject, on_cpu

FOLD = Rewrite("fold", "", lambda subject: subject.normalizes)

REWRITES = (FOLD, WINOGRAD, THIN, LINEAR, VIEWS, CHANNELS_LAST)


def applicable(model: nn.Module, dtype: torch.dtype | None) -> list[Rewrite]:
    """Return the rewrites for a model that is to compute in `dtype`."""
    subject = Subject(model, dtype)
    gain = not on_cpu(subject) or subject.convolves or subject.normalizes or gains(model)
    # a compiler has looked at its parts; and where little is to be gained, looks at each call take longer
    if not gain or any(map(holds_compiled, model.modules())):
        return []
    return [rewrite for rewrite in REWRITES if rewrite.applies(subject)]

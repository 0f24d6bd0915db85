"""A function or model seen through rewrites, for tests."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fastadv.engine.rewrite import Rewrite, Rewriting, Subject
from fastadv.engine.rewrites import FOLD


class Seen:
    """Calls `run` as a pass of a search copy does; `used` names the rewrites of the last call."""

    def __init__(
        self, run: Callable[..., Any], *rewrites: Rewrite, dtype: torch.dtype = torch.float32
    ) -> None:
        model = run if isinstance(run, nn.Module) else nn.Identity()
        self.run, self.rewriting = run, Rewriting(rewrites, Subject(model, dtype))
        self.used: list[str] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        lens = self.rewriting.lens()
        try:
            with lens:
                made = self.run(*args, **kwargs)
            lens.finish(made)
        finally:
            self.used = lens.used
        return made


def folded(model: nn.Module, x: Tensor, *rewrites: Rewrite) -> Seen:
    """`model` with the pairs folded that one watched pass of x has seen."""
    seen = Seen(model.requires_grad_(False), FOLD, *rewrites)
    lens = seen.rewriting.watching()
    with lens:
        made = model(x)
    lens.finish(made)
    return seen


def answers(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Logits, and the gradient of the cross-entropy at x."""
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    (gradient,) = torch.autograd.grad(F.cross_entropy(wide, y, reduction="sum"), leaf)
    return logits.detach(), gradient

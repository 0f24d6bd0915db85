"""A function or model seen through rewrites, for tests."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fastadv.engine.rewrite import Rewrite, Rewriting


class Seen:
    """Calls `run` as a pass of a search copy does; `used` names the rewrites of the last call."""

    def __init__(
        self, run: Callable[..., Any], *rewrites: Rewrite, dtype: torch.dtype = torch.float32
    ) -> None:
        self.run, self.rewriting, self.used = run, Rewriting(rewrites, dtype), set[str]()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        lens = self.rewriting.lens()
        assert lens is not None
        try:
            with lens:
                return self.run(*args, **kwargs)
        finally:
            self.used = lens.used


def answers(model: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    leaf = x.clone().requires_grad_()
    logits = model(leaf)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    (gradient,) = torch.autograd.grad(F.cross_entropy(wide, y, reduction="sum"), leaf)
    return logits.detach(), gradient


def apart(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())

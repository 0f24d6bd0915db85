"""What a search goes by where the model has no finite logits: its last answer that was finite."""

import torch
from torch import Tensor

from fastadv.attacks.core.look import GradientLook, JacobianLook
from fastadv.attacks.core.points import like
from fastadv.attacks.core.record import Rows

# gradients in a row without finite logits, after which a sample turns back
PATIENCE = 10


class LastAnswer(Rows):
    """What the model said of each sample at the last point with finite logits where a gradient was taken.

    `gradients` [n, C, ...] are those of a `JacobianLook`; `lost` [n] counts the gradients taken since then.
    """

    logits: Tensor
    loss: Tensor
    gradient: Tensor
    gradients: Tensor
    lost: Tensor

    def stand_in(
        self,
        look: GradientLook | JacobianLook,
        x: Tensor,
        finite: Tensor | None,
        names: tuple[str, ...] | None = None,
    ) -> None:
        """Let `look` repeat the last answer where its logits are not `finite`; None says that all are.

        names: of those of its answers that will be read; None is all.

        So a rule that follows the gradient steps over what is not finite. After PATIENCE gradients that were
        not enough, the gradient is reversed, which leads back to where there were answers. Where there was
        none yet, it leads to x, and the rest of the look stays as it is.
        """
        said = {name: getattr(look, name) for name in names or look.answers}
        own = vars(self)
        if finite is None:
            own.pop("lost", None)
            own.update(said)
            return
        self.lost = torch.where(finite, 0.0, own.get("lost", 0.0) + 1.0)
        back = self.lost > PATIENCE
        for name, now in said.items():
            slope, before = name.startswith("gradient"), own.get(name)
            if before is None or before.shape != now.shape:
                before = _towards(x, look.seen, now) if slope else now
            answer = torch.where(like(finite, now), now, before.to(now.dtype))
            setattr(self, name, answer)
            setattr(look, name, torch.where(like(back, now), -answer, answer) if slope else answer)


def _towards(x: Tensor, seen: Tensor, gradients: Tensor) -> Tensor:
    """Return the way from `seen` to x [n, ...], which broadcasts over gradients [n, ...] or [n, C, ...]."""
    return (x - seen).view(len(x), *[1] * (gradients.ndim - x.ndim), *x.shape[1:])

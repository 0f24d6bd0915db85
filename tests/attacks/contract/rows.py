"""Nine calls in which any two values of any two options meet, and what an attack is given in each."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from fastadv.attacks import ConfidentlyWrong, Criterion, WrongBy
from fastadv.attacks.core import WRONG
from fastadv.engine import freeze
from fastadv.models import Binarized
from fastadv.threat import THREATS, Threat

from ..nets import Case, convnet, images
from .cases import options

DTYPES = torch.float64, torch.float32, torch.float16, torch.bfloat16
OPTIONS: dict[str, tuple[Any, ...]] = {
    "mask": (False, True),
    "targets": (False, True),
    "criterion": (False, True),
    "classes": (2, 10),
    "saturated": (False, True),
    # of weights, and of pixels; a net with weights in float32 casts half precision by itself
    "formats": ((DTYPES[0],) * 2, (DTYPES[1],) * 2, DTYPES[1:3], DTYPES[:1:-1]),
    "radii": (False, True),  # one a sample, of which one is 0
    "box": ((0.0, 1.0), (-2.0, 2.0)),
    "binarized": (False, True),
    "frozen": (False, True),
    "seldom": (False, True),  # whether samples leave after 1, 2, 4, 8 ... evaluations alone, as on a GPU
    "loss": (False, True),  # another one or, of attacks that take none, the published variant
    "nan": (False, True),  # logits and gradients, where the first pixel is bright
}
# the place of each option's value
ROWS = (
    "0000000000110", "1111101111001", "0110120010101", "1001021101010", "0101130101100",
    "1010031010011", "0111111000110", "1100010011100", "0000110100001",
)  # fmt: skip
# samples: those that are wrong at x, that of radius 0, and those of NaN in logits, and in the gradient, at x
COUNT, ALREADY, STILL, LOST, STEEP = 8, slice(2), 3, 4, 5
# in the unit box, of 128 values
RADIUS = {"linf": 0.6, "l2": 3.0, "l1": 16.0, "l0": 30.0}


class Front(nn.Module):
    """A net in another box, perhaps of binarized images, that tells what it is asked.

    With NaN, where the first pixel is above 2/3 the gradient is, from 0.9 to 0.95 the logits.
    """

    def __init__(
        self, net: nn.Module, row: "Row", tell: Callable[[Tensor], None], back: Callable[[int], None]
    ) -> None:
        super().__init__()
        self.net = Binarized(net, 0.5) if row.binarized else net
        (self.low, high), self.tell, self.back = row.box, tell, back
        self.width, self.casts, self.nan = high - self.low, row.formats == DTYPES[1:3], row.nan

    def forward(self, x: Tensor) -> Tensor:
        self.tell(x.detach().clone())
        if x.requires_grad:
            x.register_hook(lambda gradient: self.back(len(gradient)))
        x = (x - self.low) / self.width
        x = x.to(next(self.parameters()).dtype) if self.casts else x
        logits: Tensor = self.net(x)
        if not self.nan:
            return logits
        first, total = x[:, 0, 0, 0], x.flatten(1).sum(1)
        root = torch.where(first > 2 / 3, 0 * total, torch.ones_like(total)).sqrt()
        return logits + torch.where((first > 0.9) & (first < 0.95), torch.nan, 0 * root)[:, None]


class Row(SimpleNamespace):
    """The options of a row by name, with a model, its samples, and what the model was asked."""

    def __init__(self, number: int) -> None:
        places = zip(ROWS[number], OPTIONS.items(), strict=True)
        super().__init__(**{name: values[int(place)] for place, (name, values) in places})
        self.seen, self.passes = list[Tensor](), Counter[str]()
        x = images(COUNT, (2, 8, 8))
        x = x.round() if self.saturated else x
        if self.nan:
            x[:, 0, 0, 0] = 0.3
            x[LOST, 0, 0, 0], x[STEEP, 0, 0, 0] = 0.92, 0.8
        low, high = self.box
        self.x = (low + (high - low) * x).to(self.formats[1])
        self.model = self._model()
        self.searched: Any = freeze(self.model, "bf16") if self.frozen else self.model
        self.y = self.logits(self.x).argmax(1)
        self.y[ALREADY] = (self.y[ALREADY] + 1) % self.classes
        if self.nan:
            self.y[LOST] = 1  # argmax of NaN is 0

    def _model(self) -> nn.Module:
        """Return a net in training mode, with gradients, a frozen layer and one BatchNorm in eval mode."""
        net = convnet(self.classes).to(self.formats[0]).eval()

        def tell(x: Tensor) -> None:
            self.seen.append(x)
            self.passes["forward"] += len(x)

        model = Front(net, self, tell, lambda count: self.passes.update(backward=count))
        self.model = model
        with torch.no_grad():  # all classes are near
            net[7].bias -= self.logits(self.x).nanmean(0).to(net[7].bias)
            net[7].weight *= 2
        net.train()[4].eval()
        net[0].weight.requires_grad_(False)
        net(images(COUNT, (2, 8, 8)).to(self.formats[0])).sum().backward()
        return model

    def logits(self, x: Tensor) -> Tensor:
        """Return what the model says in eval mode, of images as it is shown them."""
        modes = [(part, part.training) for part in self.model.modules()]
        shown = x if self.model.casts else x.to(self.formats[0])
        with torch.no_grad():
            logits: Tensor = self.model.eval()(shown)
        for part, training in modes:
            part.training = training
        return logits

    def threat(self, case: Case, norm: str) -> Threat:
        """Return any distance for most minimum-norm attacks; for the others, a ball in which many break."""
        radius: Any = RADIUS[norm] * (1 if norm == "l0" else self.box[1] - self.box[0])
        if self.radii:
            radius = radius * torch.linspace(0.5, 2, COUNT)
            radius[STILL] = 0
        elif case.entry.minimal:
            radius = torch.inf
        return THREATS[norm](radius, self.box)

    def arguments(self, case: Case, threat: Threat) -> dict[str, Any]:
        """Return those of the attack's arguments that the row names."""
        given: dict[str, Any] = options(case, stop_early=not self.seldom, indicators=False)
        if self.mask:
            given["mask"] = mask()
        if self.criterion:
            given["criterion"] = self.criterion_for(case)
        if self.targets and case.entry.targeted:
            given["targets"] = (self.y + 1) % self.classes
        if self.loss and case.takes("loss"):
            given["loss"] = ("margin", "dlr", "cw")[len(case.name) % 3]
        elif self.loss and case.takes("variant"):
            given["variant"] = "published"
        if self.radii and case.takes("step_size") and not case.entry.minimal:
            size = torch.as_tensor(threat.radius) / 4  # of no length where the radius is 0
            given["step_size"] = size.ceil() if threat.norm == "l0" else size
        return given

    def criterion_for(self, case: Case) -> Criterion:
        if not self.criterion:
            return WRONG
        return WrongBy(0.1) if len(case.name) % 2 else ConfidentlyWrong(0.3)


def mask() -> Tensor:
    held = torch.ones(2, 8, 8, dtype=torch.bool)
    held[0, :2], held[1, 3, 4] = False, False
    return held


@cache
def row(number: int) -> Row:
    return Row(number)

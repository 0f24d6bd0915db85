"""Where points may lie: bounds and units, the budget, random starts: 5, 6, 14."""

import torch
from torch import Tensor, nn

from bench.conduct.attack import BOUNDS, RADIUS, START, Attack
from bench.conduct.checks import Finding, absent, judged, said
from bench.conduct.checks.nets import Exact, images, labels, lengths, mlp

NORMALIZED = (-0.4242, 2.8215)  # the bounds of MNIST, divided by its standard deviation
BUDGETS = {"linf": 8 / 255, "l2": 0.5, "l1": 2.0}


def bounds(attack: Attack) -> Finding:
    """A radius of zero on normalized images, at first without saying how they are bounded."""
    if RADIUS not in attack.can:
        return absent("no radius")
    model, x = Exact(mlp()), images(low=NORMALIZED[0], high=NORMALIZED[1])
    y = labels(model, x)

    def moved(**given: object) -> float:
        out = attack(model, x, y, radius=0.0, step=0.1, classes=3, **given).x_adv
        return float((out.detach() - x).abs().max())

    try:
        silent = moved()
        text = (
            f"a radius of 0 moves pixels by {silent:.2g} where it was not told the bounds"
            if silent > 1e-6
            else "moves nothing"
        )
        fine = silent <= 1e-6
    except Exception as error:
        fine, text = True, f"refuses images outside the bounds ({type(error).__name__})"
    if BOUNDS in attack.can:
        try:
            told = moved(bounds=NORMALIZED)
            fine &= told <= 1e-6
            text += f"; by {told:.2g} where it was" if told > 1e-6 else "; nothing where it was"
        except Exception as error:
            text += f"; told the bounds: {said(error)}"
    else:
        text += "; takes no bounds"
    return judged(fine, text)


def _excess(attack: Attack, dtype: torch.dtype) -> tuple[float, int]:
    """How far the farthest image lies outside ball or box, and how many do."""
    net, x = mlp(inputs=192).to(dtype), images(256, (3, 8, 8)).to(dtype)
    y, radius = labels(net, x), BUDGETS[attack.norm]
    out: Tensor = attack(
        net, x, y, radius=radius, steps=10, start=START in attack.can, classes=3
    ).x_adv.detach()
    outside = torch.maximum(-out, out - 1).double().flatten(1).amax(1).clamp(min=0)
    over = torch.maximum(lengths(out.double() - x.double(), attack.norm) - radius, outside)
    # images of an array library come back in float32, and in it two roundings of a pixel are 1.2e-7
    slack = 1e-6 * radius + (1.2e-7 if dtype == torch.float32 and attack.norm == "linf" else 0)
    return max(0.0, float(over.max())), int((over > slack).sum())


def budget(attack: Attack) -> Finding:
    """Random start and ten steps on 256 images, in float32 and in bfloat16."""
    if RADIUS not in attack.can:
        return absent("no radius")
    radius = {"linf": "8/255", "l2": "0.5", "l1": "2"}[attack.norm]
    most, many = _excess(attack, torch.float32)
    text = f"exceeds {radius} by at most {most:.1e}, {many} of 256 images by more than rounding"
    try:
        lower, few = _excess(attack, torch.bfloat16)
        text += f"; in bfloat16 by {lower:.1e}, {few} images"
    except Exception as error:
        few, text = 0, f"{text}; bfloat16: {said(error)}"
    return judged(not many and not few, text)


class AllButOne(nn.Module):
    """Class 0 at a gray image alone, so that the start is a success and comes back."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -1.0]] * 4) / 100)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        away = ((flat - 0.5).abs().amax(1) > 1e-6).to(x.dtype)
        return torch.stack([0.5 - away, away], 1) + flat @ self.weight


def starts(attack: Attack) -> Finding:
    """Random starts in four dimensions: uniform in the ball, their mean length is 4/5 of the radius."""
    if START not in attack.can:
        return absent("no random start to ask for")
    model, x, radius = AllButOne(), torch.full((4000, 1, 2, 2), 0.5), 0.25
    y = torch.zeros(4000, dtype=torch.long)
    out = attack(model, x, y, radius=radius, steps=1, step=1e-9, start=True).x_adv.detach()
    away = (out - x) / radius
    mean, drift = float(lengths(away, attack.norm).mean()), float(away.mean(0).abs().max())
    return judged(
        abs(mean - 0.8) < 0.02 and drift < 0.03,
        f"mean length {mean:.2f} of the radius (uniform: 0.80)"
        + (f", off center by {drift:.2f}" if drift >= 0.03 else ""),
    )

"""What a step of each attack costs: the passes of a model that no attack fools, so that none ends early."""

from math import inf

import torch
from torch import nn

import fastadv as fa
from fastadv.threat import THREATS

CLASSES, SAMPLES = 10, 2
COUNTED = {"steps": 20, "queries": 400}


class Unbreakable(nn.Module):
    """Class 0 whatever the image, with a gradient."""

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.last = nn.Linear(16, CLASSES)
        self.register_buffer("lead", 20 * torch.eye(CLASSES)[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [B, K]."""
        return self.last(x.flatten(1)) + self.lead


class Positions(Unbreakable):
    """Class 0 at each of two positions."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return logits [B, K, 2]."""
        return super().forward(x)[..., None].expand(-1, -1, 2)


def cost(attack: fa.attacks.Attack) -> str:
    """Return what a step or a query of the attack costs a sample, or a dash where it has neither."""
    unit = next((unit for unit in COUNTED if unit in attack.quick), None)
    if unit is None:
        return "-"
    once, twice = (_passes(attack, unit, n) for n in (COUNTED[unit], 2 * COUNTED[unit]))
    ahead, back = (round((b - a) / COUNTED[unit]) for a, b in zip(once, twice, strict=True))
    if not ahead:  # the number only bounds what others spend
        return "-"
    told = [f"{ahead} forward"] + [f"{back} backward"] * bool(back)
    return f"{' + '.join(told)} a {unit.removesuffix('s') if unit == 'steps' else 'query'}"


def _passes(attack: fa.attacks.Attack, unit: str, count: int) -> tuple[float, float]:
    """Return the passes a sample of one run with so many steps or queries."""
    norm = attack.norms[0]
    radius = inf if attack.minimal else 3.0 if norm == "l0" else 0.1
    once = {name: 1 for name in ("searches", "restarts") if name in attack.quick}
    full = {"stop_early": False} if attack.takes("stop_early") else {}
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(SAMPLES, 1, 4, 4, generator=generator)
    model, y = Unbreakable(), torch.zeros(SAMPLES, dtype=torch.long)
    arguments = {**attack.quick, **once, **full, unit: count}
    if attack.requires == "a class at each position":
        model, y, arguments["criterion"] = Positions(), y[:, None].expand(-1, 2), fa.attacks.Share(1.0)
    out = attack.run(model, x, y, THREATS[norm](radius), **arguments)
    return out.forwards / SAMPLES, out.backwards / SAMPLES

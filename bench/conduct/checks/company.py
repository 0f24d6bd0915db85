"""What an attack does to others: other starts, the caller's model and process, images beside it: 10 to 13."""

import numpy as np
import torch
from torch import Tensor, nn

from bench.conduct.attack import RESTARTS, START, Attack, Given
from bench.conduct.checks import Finding, absent, judged, said
from bench.conduct.checks.nets import Counted, Exact, asked, broken, found, images, labels, linear, mlp


class Lottery(nn.Module):
    """Class 1 where the first pixel is above 0.54, with a gradient of zero: the random start decides."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        won = (x.flatten(1)[:, 0] > 0.54).to(x.dtype)
        levels = [torch.full_like(won, level) for level in (0.5, -1.0, -1.5)]
        return torch.stack([levels[0], won, *levels[1:]], 1) + x.flatten(1) @ self.weight


def restarts(attack: Attack) -> Finding:
    """Each start breaks about three of ten images: ten nearly all, if the best of each counts."""
    if RESTARTS not in attack.can:
        return absent("no restarts")
    if attack.norm != "linf":
        return absent("tried with the attack in Linf")
    x, y = torch.full((100, 1, 2, 2), 0.5), torch.zeros(100, dtype=torch.long)
    model = Lottery()
    one, ten = (
        broken(attack, model, x, y, radius=0.1, steps=2, start=True, restarts=count, classes=4)
        for count in (1, 10)
    )
    passes = []
    for count in (1, 10):
        counted = Counted(Exact(linear(4)))
        some = images()
        broken(
            attack,
            counted,
            some,
            labels(counted, some),
            radius=0.9,
            steps=5,
            start=True,
            restarts=count,
            classes=4,
        )
        passes.append(counted.images)
    cost = passes[1] / passes[0]
    expected = 100 * (1 - (1 - one / 100) ** 10)
    return judged(
        ten >= 0.9 * expected,
        f"one start breaks {one} of 100, ten starts {ten} (if drawn anew: {expected:.0f}); "
        f"where the first breaks all, ten starts cost {cost:.1f} times the passes",
    )


def _net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4),
        nn.Flatten(), nn.Linear(16, 3),
    )  # fmt: skip
    with torch.no_grad():
        net.train()(images(64))
    net[4].eval()  # as who fine-tunes a part
    return net


def state(attack: Attack) -> Finding:
    """A net in training mode, one layer of it not: what has changed after the attack."""
    net, x = _net(), images()
    y = labels(net.eval(), x)
    net.train()
    net[4].eval()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    modes, kept = [part.training for part in net.modules()], x.clone()
    after = []
    for seed in (1, 2):  # equal states afterwards were set, not moved on
        net.zero_grad(set_to_none=True)
        torch.manual_seed(seed)
        np.random.seed(seed)
        out = attack.call(net, x, y, Given(**asked(attack, steps=10, start=True, classes=3)))
        after.append((torch.get_rng_state(), np.random.get_state()[1]))
    faults = {
        "fills the gradients of parameters": any(p.grad is not None for p in net.parameters()),
        "changes the statistics of BatchNorm": any(
            not torch.equal(v, before[n]) for n, v in net.state_dict().items()
        ),
        "leaves layers in another mode": [part.training for part in net.modules()] != modes,
        "sets torch's random state": torch.equal(after[0][0], after[1][0]),
        "sets NumPy's random state": bool((after[0][1] == after[1][1]).all()),
        "returns images with their graph": out.x_adv.requires_grad,
        "changes the images it was given": not torch.equal(x, kept),
        "freezes parameters": not all(p.requires_grad for p in net.parameters()),
    }
    seen = [name for name, there in faults.items() if there]
    return judged(not seen, "; ".join(seen) or "leaves model, images and random states as they were")


def batch(attack: Attack) -> Finding:
    """Eight images together and each alone, without random draws."""
    if not attack.minimal and START not in attack.can:
        return absent("starts at random whatever is asked")
    model, x = Exact(mlp()), images(8)
    y, given = labels(model, x), asked(attack, classes=3, steps=100 if attack.minimal else 20)
    whole = attack(model, x, y, **given).x_adv.detach()
    alone = torch.cat(
        [attack(model, a, b, **given).x_adv.detach() for a, b in zip(x.split(1), y.split(1), strict=True)]
    )
    away = (whole - alone).abs().flatten(1).amax(1)
    others = int((away > 1e-3).sum())
    lost = int(found(model, alone, y).sum()) - int(found(model, whole, y).sum())
    text = f"{others} of 8 images come out otherwise alone"
    return judged(
        not others,
        f"{text}, by up to {float(away.max()):.2g}; {lost:+d} broken alone" if others else text,
    )


def classes(attack: Attack) -> Finding:
    """Models of two, three and a hundred classes."""
    told, fine = [], True
    for count in (2, 3, 100):
        model, x = Exact(linear(count)), images()
        try:
            done = broken(attack, model, x, labels(model, x), classes=count)
            fine &= done > 0
            told.append(f"breaks {done} of 16 with {count:,} classes")
        except Exception as error:
            fine = False
            told.append(f"{count:,} classes: {said(error)}")
    return judged(fine, "; ".join(told))

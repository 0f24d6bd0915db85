"""What numbers do to an attack: NaN, zero and one, the level and the scale of logits: 2, 3, 4, 7."""

import torch
from torch import Tensor, nn

from bench.conduct.attack import Attack
from bench.conduct.checks import Finding, absent, judged, said
from bench.conduct.checks.nets import Exact, asked, broken, found, images, labels, linear, mlp


class Poisoned(nn.Module):
    """A net; where the first pixel is above 2/3, the gradient of the second one is NaN."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        root = torch.where(flat[:, 0] > 2 / 3, 0 * flat[:, 1], torch.ones_like(flat[:, 1])).sqrt()
        logits: Tensor = self.net(x) + 0 * root[:, None]
        return logits


def nan(attack: Attack) -> Finding:
    """One element of the gradient of a quarter of the images is NaN."""
    net, x = mlp(4), images()
    with torch.no_grad():  # nobody's class, but argmax of NaN is 0
        net[3].weight[0], net[3].bias[0] = 0, -20
    model = Poisoned(Exact(net))
    poisoned = torch.arange(16) % 4 == 0
    x[:, 0, 0, 0] = torch.where(poisoned, 0.95, 0.2)
    y = labels(model, x)
    try:
        out = attack(model, x, y, **asked(attack, classes=4))
    except Exception as error:
        return judged(False, f"4 of 16 images end the batch: {said(error)}")
    bad = out.x_adv.detach().isnan().flatten(1)
    ruined = bad.any(1)
    if not ruined.any():
        return judged(True, "no NaN in any image")
    with torch.no_grad():
        counted = model(out.x_adv).argmax(1) != y if out.success is None else out.success
    who = "argmax counts" if out.success is None else "the library counts"
    others = int((ruined & ~poisoned).sum())
    return judged(
        False,
        f"{int(ruined.sum())} of 4 poisoned images "
        f"are NaN in {float(bad[ruined].float().mean()):.0%} of their pixels; "
        f"{who} {int((counted & ruined).sum())} of them as successes"
        + (f"; {others} other images" if others else ""),
    )


def saturated(attack: Attack) -> Finding:
    """Pixels at exactly 0 and 1 against the same images with pixels at 0.1 and 0.9."""
    model, binary = Exact(mlp()), images().round()
    soft = 0.1 + 0.8 * binary
    inside = broken(attack, model, soft, labels(model, soft), classes=3)
    if inside < 4:
        return absent(f"breaks {inside} of 16 images whose pixels are at 0.1 and 0.9: too few to compare")
    y = labels(model, binary)
    out = attack(model, binary, y, **asked(attack, classes=3)).x_adv.detach()
    still = int((out == binary).flatten(1).all(1).sum())
    done = int(found(model, out, y).sum())
    return judged(
        2 * done >= inside,
        f"breaks {done} of 16 binary images and leaves {still} as they are; "
        f"with pixels at 0.1 and 0.9 it breaks {inside}",
    )


def margins(attack: Attack) -> Finding:
    """The same net with 16 taken from every logit, and with logits ten thousand times as large."""
    net, x = mlp(4), images(32)
    y = labels(Exact(net), x)
    plain, lower, sure = (
        broken(attack, Exact(net, **to), x, y, classes=4) for to in ({}, {"shift": -16.0}, {"scale": 1e4})
    )
    if plain < 8:
        return absent(f"breaks {plain} of 32: too few to compare")
    fine = min(lower, sure) >= plain - 3
    return judged(
        fine, f"breaks {plain} of 32; {lower} with logits lower by 16; {sure} with logits times 10,000"
    )


SCALED = ("Carlini", "carlini", "CW", "cw", "EAD", "ead", "Elastic", "alma")


def scale(attack: Attack) -> Finding:
    """Logits times 1e-8, which move the same boundary nowhere, and a net whose gradient is zero."""
    if any(part in attack.name for part in SCALED):
        return absent("weighs the loss against the distance")
    x, count = images(32), 4 if attack.loss == "dlr" else 2  # what DLR asks for
    net = linear(count)
    y = labels(Exact(net), x)
    plain, small = (broken(attack, Exact(net, factor), x, y, classes=count) for factor in (1.0, 1e-8))
    try:
        flat = attack(Exact(net, 0.0), x, torch.zeros_like(y), **asked(attack, classes=count)).x_adv
        ruined = int(flat.detach().isnan().flatten(1).any(1).sum())
        told = (
            f"{ruined} of 32 images are NaN where the gradient is zero"
            if ruined
            else "no NaN where the gradient is zero"
        )
    except Exception as error:
        ruined, told = 1, f"an error where the gradient is zero: {said(error)}"
    return judged(
        small >= plain - 3 and not ruined, f"breaks {plain} of 32; {small} with logits times 1e-8; {told}"
    )

"""Whether what comes back is what was found: 1, 8, 9, 15."""

import torch
from torch import Tensor, nn

from bench.conduct.attack import START, TARGETS, Attack, Given
from bench.conduct.checks import Finding, absent, judged
from bench.conduct.checks.nets import Exact, asked, found, images, labels, lengths, linear, mlp


class Unbroken(nn.Module):
    """Class 0 everywhere but at an all-black image, away from which every gradient leads."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(0.01))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(1)
        black = (flat.amax(1) < 1e-3).to(x.dtype)
        others = [torch.full_like(black, level) for level in (-1.0, -1.5)]
        return torch.stack([1 - self.weight * flat.mean(1), 2 * black, *others], 1)


def failure(attack: Attack) -> Finding:
    """Nothing can be found: no image may be made up, and none be called a success."""
    model, x = Unbroken(), images(low=0.3)
    y = torch.zeros(len(x), dtype=torch.long)
    out = attack(model, x, y, **asked(attack, steps=10, classes=4))
    made_up, counted = int((out.x_adv == 0).flatten(1).all(1).sum()), int(found(model, out.x_adv, y).sum())
    told = "" if out.success is None else f", and the library calls {int(out.success.sum())} successes"
    if made_up or counted:
        return judged(False, f"{made_up} of 16 images it could not break come back black{told}")
    fine = out.success is None or not out.success.any()
    return judged(fine, f"16 images it could not break: none comes back black{told}")


def targets(attack: Attack) -> Finding:
    """The classes asked for are reached, and a success is called one only there."""
    if TARGETS not in attack.can:
        return absent("no targeted mode")
    model, x = Exact(linear(5)), images()
    with torch.no_grad():
        y, towards = model(x).topk(2).indices.T
    rows = torch.arange(len(x))

    def lead(at: Tensor) -> Tensor:
        """How far the target's logit is above the label's."""
        with torch.no_grad():
            logits: Tensor = model(at)
        return logits[rows, towards] - logits[rows, y]

    out = attack(model, x, y, **asked(attack, targets=towards, classes=5))
    reached = labels(model, out.x_adv.detach()) == towards
    away = int((lead(out.x_adv.detach()) < lead(x) - 1e-3).sum())
    fine = not away
    told = ""
    if out.success is not None:
        fine &= bool((out.success == reached).all())
        told = f", {int(out.success.sum())} called successes"
    return judged(fine, f"{int(reached.sum())} of 16 reach their target, {away} go away from it{told}")


def last_step(attack: Attack) -> Finding:
    """The boundary lies at 0.97 of the radius, where only the last of ten steps comes."""
    if attack.minimal:
        return _agreement(attack)
    if START not in attack.can or attack.norm == "l1":
        return absent("no steps from the image that add up to a radius")
    net, x, radius = linear(4), torch.full((8, 1, 4, 4), 0.5), 0.2
    away = (net[1].weight[1] - net[1].weight[0]).detach()
    reach = away.abs().sum() if attack.norm == "linf" else away.norm()
    with torch.no_grad():
        net[1].weight[0], net[1].weight[1], net[1].weight[2:] = 0, away, 0
        net[1].bias.copy_(torch.tensor([0.0, float(-0.5 * away.sum() - 0.97 * radius * reach), -20.0, -30.0]))
    model, y = Exact(net), torch.zeros(8, dtype=torch.long)
    out = attack(model, x, y, radius=radius, steps=10, step=radius / 10, classes=4)
    fresh = found(model, out.x_adv.detach(), y)
    agree = out.success is None or torch.equal(out.success, fresh)
    told = "" if out.success is None else f", {int(out.success.sum())} called successes"
    return judged(bool(fresh.all()) and agree, f"{int(fresh.sum())} of 8 broken by the last step{told}")


def _agreement(attack: Attack) -> Finding:
    """Of points on the very boundary: what the library says beside what a fresh pass says."""
    told = false = 0
    for model in (Exact(linear(3)), Exact(mlp())):
        x = images(128)
        y = labels(model, x)
        out = attack(model, x, y, **asked(attack, steps=100, classes=3))
        if out.success is None:
            return absent("does not say what succeeded")
        told += int(out.success.sum())
        false += int((out.success & ~found(model, out.x_adv.detach(), y)).sum())
    return judged(not false, f"calls {told} of 256 successes, of which a fresh pass denies {false}")


def misread(attack: Attack) -> Finding:
    """Images the model misreads already stay as they are; export to 8 bits keeps what was found."""
    model, x = Exact(mlp()), (images(64) * 255).round() / 255
    y = labels(model, x)
    if attack.minimal:
        y[:16] = (y[:16] + 1) % 3
        out = attack(model, x, y, **asked(attack, classes=3)).x_adv.detach()
        away = lengths(out - x, attack.norm)[:16]
        moved = int((away > 1e-4).sum())
        return judged(
            not moved,
            f"moves {moved} of 16 misread images" + (f", by up to {float(away.max()):.2g}" if moved else ""),
        )
    if attack.exports is None:
        return absent("no export to 8 bits")
    given = asked(attack)
    was = found(model, attack(model, x, y, **given).x_adv.detach(), y)
    stored = attack.exports(model, x, y, Given(**given)).float() / 255
    kept = found(model, stored, y)[was]
    beyond = lengths(stored - x, attack.norm) > given["radius"] * (1 + 1e-6)
    return judged(
        float(kept.float().mean()) > 0.9 and not beyond.any(),
        f"8 bits keep {int(kept.sum())} of {int(was.sum())} successes, {int(beyond.sum())} outside the ball",
    )

"""Linear models in the dimensions that users have, and the exact distances to their boundaries in the box."""

import torch
from torch import Tensor, nn

ROUNDS = 40


def problem(inputs=784, classes=10, size=6, box=(0.0, 1.0), scale=1.0, seed=0):
    """A linear model, its logits divided by `scale`, and images of the largest margins, half at an edge."""
    draw = torch.Generator().manual_seed(seed)
    weight = torch.randn(classes, inputs, generator=draw, dtype=torch.float64)
    x = torch.rand(3 * size, inputs, generator=draw, dtype=torch.float64)
    edge = torch.rand(3 * size, inputs, generator=draw)
    x = torch.where(edge < 0.4, 0.0, torch.where(edge < 0.5, 1.0, x))
    x = box[0] + (box[1] - box[0]) * x
    model = nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))
    with torch.no_grad():
        # the part that all images have in common would give them one label
        model[1].weight.copy_(weight / scale)
        model[1].bias.copy_(-(weight / scale) @ x.mean(0))
    x = x.float()
    top = model(x).detach().topk(2).values
    x = x[(top[:, 0] - top[:, 1]).topk(size).indices]
    return model, x, model(x).argmax(1)


def nearest(model, x, y, norm, targets=None, box=(0.0, 1.0), lead=0.0, mask=None):
    """(distance [n], point [n, D]): where a class first leads by so much, or where the target does.

    With targets the distance is exact if the target is the largest logit at the point, which is for the
    caller to check, and else too small. Where there is a mask [D], nothing moves outside it.
    """
    weight, bias = (part.detach().double() for part in (model[1].weight, model[1].bias))
    x = x.double().flatten(1)
    best, best_point = torch.full_like(x[:, 0], torch.inf), x
    for rival in range(len(weight) if targets is None else 1):
        index = torch.full_like(y, rival) if targets is None else targets
        w = weight[index] - weight[y]
        gap = -(w * x).sum(1) - bias[index] + bias[y] + lead
        w = w if mask is None else w * mask
        if (gap >= best * _gain(w, norm, box)).logical_or(index == y).all():
            continue  # further away even where no pixel is at an edge
        distance, point = _halfspace(w, gap, x, norm, box)
        nearer = (distance < best) & (index != y)
        best = torch.where(nearer, distance, best)
        best_point = torch.where(nearer[:, None], point, best_point)
    return best, best_point


def _gain(w: Tensor, norm: str, box: tuple[float, float]) -> Tensor:
    if norm == "l0":
        return w.abs().amax(1) * (box[1] - box[0])
    return torch.linalg.vector_norm(w, {"linf": 1, "l2": 2, "l1": torch.inf}[norm], dim=1)


def _halfspace(w, gap, x, norm, box):
    """The nearest point z of the box with <w, z - x> >= gap; distance inf where there is none."""
    size = w.abs()
    room = torch.where(w > 0, box[1] - x, x - box[0]) * (w != 0)
    if norm in ("linf", "l2"):
        pull = torch.ones_like(size) if norm == "linf" else size
        low = torch.zeros(len(x), 1, dtype=torch.float64)
        high = (room / pull.clamp_min(1e-12)).amax(1, keepdim=True)
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            enough = (size * torch.minimum(middle * pull, room)).sum(1, keepdim=True) >= gap[:, None]
            low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
        away = torch.minimum(high * pull, room)
        distance = away.amax(1) if norm == "linf" else away.norm(dim=1)
    else:
        worth = size if norm == "l1" else size * room
        order = worth.argsort(1, descending=True)
        rooms = room.gather(1, order)
        gain = (size.gather(1, order) * rooms).cumsum(1)
        before = torch.cat([torch.zeros(len(x), 1, dtype=torch.float64), gain[:, :-1]], 1)
        used = before < gap[:, None]
        part = ((gap[:, None] - before) / size.gather(1, order)).clamp_min(0)
        moved = torch.where(used, torch.minimum(part, rooms) if norm == "l1" else rooms, 0.0)
        away = torch.zeros_like(x).scatter(1, order, moved)
        distance = {"l1": moved.sum(1), "l0": used.sum(1).double()}[norm]
    possible = (size * room).sum(1) >= gap
    return distance.masked_fill(~possible, torch.inf), x + w.sign() * away

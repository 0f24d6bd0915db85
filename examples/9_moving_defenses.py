"""Three defenses that move at test time around one net: attacks on that net, and those that follow them."""

from functools import partial

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

import fastadv as fa


class TwoTowers(nn.Module):
    """Cosines of the embedding of an image with one of each class, its text."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU()]
        self.encoder = nn.Sequential(*layers, nn.Flatten(), nn.Linear(256, 48))
        self.texts = nn.Parameter(torch.randn(10, 48))

    def forward(self, x):
        return 20 * F.cosine_similarity(self.encoder(x)[:, None], self.texts, dim=2)


class Counterattack(nn.Module):
    """Add two steps away from the embedding of the image, from a random start."""

    def __init__(self, net, radius=0.1):
        super().__init__()
        self.net, self.radius = net, radius

    def forward(self, x):
        here, delta = self.net.encoder(x).detach(), self.radius * (torch.rand_like(x) - 0.5)
        for _ in range(2):
            with torch.enable_grad():
                delta.requires_grad_()
                away = (self.net.encoder(x.detach() + delta) - here).square().sum()
                (gradient,) = torch.autograd.grad(away, delta)
            delta = (delta.detach() + self.radius * gradient.sign()).clamp(-self.radius, self.radius)
        return (x + delta).clamp(0, 1)


class Purification(nn.Module):
    """Go five steps towards the mean text, divided by the norm of the gradient of the whole batch."""

    exact = False  # whether gradients lead through that of a step

    def __init__(self, net, step_size=2.5):
        super().__init__()
        self.net, self.step_size = net, step_size

    def step(self, x):
        text = F.normalize(self.net.texts, dim=1).mean(0, keepdim=True)
        with torch.enable_grad():
            leaf = x if self.exact and x.requires_grad else x.detach().requires_grad_()
            towards = F.cosine_similarity(self.net.encoder(leaf), text).sum()
            (gradient,) = torch.autograd.grad(towards, leaf, create_graph=self.exact)
        return x + self.step_size * gradient / gradient.norm()

    def forward(self, x):
        for _ in range(5):
            x = checkpoint(self.step, x, use_reentrant=False) if self.exact else self.step(x)
        return x.clamp(0, 1)


class Exact(Purification):
    """The same with exact gradients, at the memory of one step."""

    exact = True


class Views(nn.Module):
    """Return the log of the mean probabilities of the surest half of random views, turned and moved."""

    def __init__(self, net, views=16):
        super().__init__()
        self.net, self.views = net, views

    def forward(self, x):
        many = x.repeat(self.views, 1, 1, 1)
        turn, grow, right, down = (torch.rand(4, len(many)) - 0.5) * torch.tensor(
            [[0.8], [0.2], [0.2], [0.2]]
        )
        cos, sin = (1 + grow) * turn.cos(), (1 + grow) * turn.sin()
        maps = torch.stack([cos, -sin, right, sin, cos, down], 1).view(-1, 2, 3)
        views = F.grid_sample(many, F.affine_grid(maps, many.shape, align_corners=False), align_corners=False)
        logs = self.net(views).log_softmax(1).view(self.views, len(x), -1)
        surest = (logs.exp() * logs).sum(2).topk(self.views // 2, 0).indices
        return logs.exp().gather(0, surest[..., None].expand(-1, -1, logs.shape[2])).mean(0).log()


class Moved(nn.Module):
    """The whole system: what moves, and the net behind it."""

    def __init__(self, move, net):
        super().__init__()
        self.move, self.net = move, net

    def forward(self, x):
        return self.net(self.move(x))


def trained():
    torch.manual_seed(0)
    net, constant = TwoTowers(), fa.train.Optimization(schedule="constant")
    options = {"epochs": 8, "batch_size": 64, "optimizer": "adam", "learning_rate": 3e-3}
    digits = fa.data.load("digits", "train")
    fa.train.fit(net, digits, fa.train.Standard(), optimization=constant, **options)
    return net.eval()


def systems(net):
    """Each defense, the same with the gradient that an attack follows, and what it needs beside."""
    counter, purified, views = Moved(Counterattack(net), net), Moved(Purification(net), net), Views(net)
    return {
        "counterattack": (counter.eval(), fa.models.bpda(counter, {"move": "identity"}), 5),
        "purification": (purified.eval(), fa.models.bpda(purified, {"move": Exact(net)}), 1),
        "views": (views.eval(), views.eval(), 5),
    }


def main(limit=None, draws=10):
    net, digits = trained(), fa.data.load("digits", "test", limit=limit)
    measured = partial(fa.evaluate, dataset=digits, threat=fa.Linf(0.12))
    apgd = partial(fa.attacks.apgd, steps=40)
    tables = {"none": [measured(net, attacks={"as it runs": apgd})]}
    for name, (system, followed, eot) in systems(net).items():
        more = {"draws": draws} if eot > 1 else {}
        runs = measured(system, attacks={"as it runs": apgd}, grey_box=net, **more)
        adaptive = measured(followed, attacks={"adaptive": partial(apgd, eot=eot)}, **more)
        tables[name] = [runs, adaptive]
    return tables


if __name__ == "__main__":
    for name, tables in main().items():
        print(f"# {name}", *tables, sep="\n\n", end="\n\n")

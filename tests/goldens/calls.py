"""Fourteen public calls on six small nets, with six sets of options: other commits run this file, too."""

import sys
from inspect import signature
from itertools import product
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv import attacks

FEW, MANY = 16, 60  # images; a search copy serves those of MANY, 8,192 values or more
OPTIONS = ("default", "again", "targets", "frozen", "mask", "criterion")
GRAY, COLOR = (1, 12, 12), (3, 8, 8)
# Images, a radius in Linf at which some of them break and some hold, and layers. "pool" is in channels-last
# and left in training mode; the gradient of "saturated" is zero at some images.
NETS: dict[str, tuple[tuple[int, ...], float, Any]] = {
    "mlp": (GRAY, 0.04, lambda: (nn.Flatten(), nn.Linear(144, 24), nn.Tanh(), nn.Linear(24, 5))),
    "cnn": (COLOR, 0.03, lambda: (
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2), nn.BatchNorm2d(12), nn.ReLU(), nn.Flatten(), nn.Linear(108, 5),
    )),
    "pool": (COLOR, 0.03, lambda: (
        nn.Conv2d(3, 8, 3), nn.ELU(), nn.MaxPool2d(2), nn.Flatten(), nn.Dropout(), nn.Linear(72, 5),
    )),
    "attention": (COLOR, 0.03, lambda: (
        nn.Conv2d(3, 16, 2, stride=2), nn.Flatten(2), nn.TransformerEncoderLayer(16, 2, 32, batch_first=True),
        nn.Flatten(), nn.Linear(256, 5),
    )),
    "soft": (GRAY, 0.03, lambda: (nn.Flatten(), nn.Linear(144, 5), nn.Softmax(1))),
    "saturated": (GRAY, 0.02, lambda: (
        nn.Flatten(), nn.Linear(144, 24), nn.Hardtanh(-0.05, 0.05), nn.Linear(24, 5, bias=False),
    )),
}  # fmt: skip

# Attack, norm, arguments, and what stands for options that the attack lacks.
CALLS: dict[str, tuple[Any, type[fa.Threat], dict[str, Any], dict[str, dict[str, Any]]]] = {
    "fgsm": (attacks.fgsm, fa.Linf, {}, {}),
    "bim": (attacks.bim, fa.Linf, {"steps": 6}, {}),
    "pgd": (attacks.pgd, fa.Linf, {"steps": 10}, {}),
    "pgd-l2": (attacks.pgd, fa.L2, {"steps": 10}, {}),
    "mim-l1": (attacks.mim, fa.L1, {"steps": 6}, {}),
    "apgd-ce": (attacks.apgd, fa.Linf, {"steps": 12, "loss": "ce"}, {}),
    "apgd-t-l2": (attacks.apgd, fa.L2, {"steps": 10, "loss": "dlr-targeted"}, {"targets": {"loss": "dlr"}}),
    "square": (attacks.square, fa.Linf, {"queries": 80}, {}),
    "ddn-l2": (attacks.ddn, fa.L2, {"steps": 20}, {"again": {"first_norm": 0.1}}),
    "fmn": (attacks.fmn, fa.Linf, {"steps": 20}, {}),
    "deepfool-l2": (attacks.deepfool, fa.L2, {"steps": 10}, {"again": {"candidates": 2}}),
    "last_iterate-l2": (attacks.last_iterate, fa.L2, {"steps": 5, "step_size": 0.05}, {
        "mask": {"loss": "margin"}, "criterion": {"step_size": torch.linspace(0.02, 0.1, FEW)},
    }),
    "autoattack": (attacks.autoattack, fa.Linf, {"version": "quick"}, {"again": {"version": ["fab-t"]}}),
    "minimum_norm-l2": (attacks.minimum_norm, fa.L2, {"steps": 180}, {"again": {"steps": 700}}),
}  # fmt: skip
MINIMUM = ("ddn-l2", "fmn", "deepfool-l2", "minimum_norm-l2")
RADII = {fa.Linf: 1, fa.L2: 9, fa.L1: 40}  # in that of the net


def names(only: str = "") -> list[str]:
    return [name for name in map(" ".join, product(CALLS, NETS, OPTIONS)) if only in name]


def drawn(name: str, noise: float = 0.0) -> nn.Module:
    """A net with weights of its own, each changed by about `noise` of itself."""
    net, generator = nn.Sequential(*NETS[name][2]()), torch.Generator().manual_seed(list(NETS).index(name))
    for part, value in net.state_dict().items():
        if value.is_floating_point():
            draw = torch.randn(value.shape, generator=generator)
            around = part.endswith(("weight", "var"))  # of a norm: 1, of biases and means: 0
            value.copy_(draw * (2 / value[0].numel()) ** 0.5 if value.ndim > 1 else around + draw / 10)
            value.mul_(1 + noise * torch.randn(value.shape, generator=generator))
    return net.eval()


def run(name: str, noise: float = 0.0) -> dict[str, Any]:
    """What a call returns, by name: tensors and texts; or the error that it raises."""
    call, net, kind = name.split()
    attack, norm, arguments, others = CALLS[call]
    (shape, radius, _), model, generator = NETS[net], drawn(net, noise), torch.Generator().manual_seed(9)
    x = torch.rand(MANY if kind == "frozen" else FEW, *shape, generator=generator)
    x = (1.2 * x - 0.1).clamp(0, 1)  # some values are at the ends of the box
    if net == "pool":
        x, model = x.to(memory_format=torch.channels_last), model.to(memory_format=torch.channels_last)
    ranked = model(x).argsort(1, descending=True)
    y = ranked[:, 0].where(torch.arange(len(x)) % 8 > 0, ranked[:, 1])  # every eighth is already wrong
    again = {"stop_early": False, "random_start": True, "restarts": 2, "seed": 7, "start": 0.98 * x + 0.01}
    options: dict[str, Any] = {
        "again": again | {"ids": torch.arange(100, 100 + FEW)},
        "targets": {"targets": ranked[:, 2]},
        "mask": {"mask": torch.rand(shape, generator=generator) < 0.7},
        "criterion": {"criterion": attacks.WrongBy(0.01)},
    }.get(kind, {})
    arguments = arguments | {
        key: options[key] for key in options.keys() & signature(attack).parameters.keys()
    }
    size: Any = inf if call in MINIMUM and kind not in ("again", "targets") else radius * RADII[norm]
    size = size * torch.linspace(0.5, 6, FEW) if kind == "targets" else size
    subject: Any = fa.freeze(model) if kind == "frozen" else model.train(net == "pool")
    try:
        out = attack(subject, x, y, norm(size), **(arguments | others.get(kind, {})))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if isinstance(out, Tensor):
        return {"x_adv": out, "success": model.eval()(out).argmax(1) != y}
    values = {field: torch.tensor([v]) if isinstance(v, int) else v for field, v in vars(out).items()}
    return {field: value for field, value in values.items() if isinstance(value, Tensor | tuple)}


def counts(name: str, noise: float = 0.0) -> list[Any]:
    """Successes; and, unless only points are returned, samples of each status, forwards and backwards."""
    out = run(name, noise)
    passes = [int(out[field]) for field in ("forwards", "backwards") if field in out]
    status = [out["status"].bincount(minlength=4).tolist()] if passes else []
    return [int(out["success"].sum()), *status, *passes]


if __name__ == "__main__":
    root, file, only = sys.argv[1:]
    assert fa.__file__.startswith(root), fa.__file__
    torch.set_num_threads(1)
    torch.save({name: run(name) for name in names(only)}, file)

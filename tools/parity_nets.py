"""The small nets that attacks are compared on: eight, and those of tests/parity/nets.py.

    python -m tools.parity_nets [standard linf l2 trades mart elle nuat ssat mixer gnres sp segments]

trains them and writes their weights, in half precision, to tests/attacks/weights/: about 30 minutes of one
core. The runs are kept in runs/bench/small/, and what is done there is not done again: delete a folder to
train anew.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import fastadv as fa
from fastadv import rng
from tests.parity.models import DATA, DENSE, NETS, ROOT, SMALL, WEIGHTS, ink, untrained

STEPS = 5
BALL = fa.Linf(0.2)  # of the three recipes of one step
RAMP = ((0.1, 1, "constant"), (0.2, 1, "constant"), (0.3, 3, "cosine"))  # radius, epochs, schedule


def _stepped(loss: Callable[[Tensor], Tensor], start: Tensor, x: Tensor, step_size: float) -> Tensor:
    """Return where one step along the sign of the gradient leads from `start`, in the ball around x."""
    start = start.clone().requires_grad_()
    (grad,) = torch.autograd.grad(loss(start), start)
    return BALL.step(start.detach(), grad, x, step_size)


def elle(model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor, seed: int) -> Tensor:
    """FGSM, and how far the loss is from linear between two points of the ball (arXiv 2401.11618)."""
    x_adv = _stepped(lambda z: cross_entropy(model(z), y), x, x, BALL.radius)
    ends = [BALL.random_start(x, rng.derive(seed, name), ids) for name in ("first", "second")]
    share = rng.uniform(1, rng.derive(seed, "share"), ids)[:, 0]
    between = torch.lerp(*ends, share.view(-1, 1, 1, 1))
    first, second, middle = (cross_entropy(model(z), y, reduction="none") for z in (*ends, between))
    error = (middle - torch.lerp(first, second, share)).square().mean()
    return cross_entropy(model(x_adv), y) + 50 * error


def nuat(model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor, seed: int) -> Tensor:
    """One step that raises the nuclear norm of the change of a batch's logits, too (NuAT, NeurIPS 2021)."""
    clean = model(x)

    def change(z: Tensor) -> Tensor:
        return torch.linalg.matrix_norm(model(z) - clean, "nuc") / len(x)

    sign = (rng.uniform(x[0].numel(), rng.derive(seed, "sign"), ids) - 0.5).sign().view(x.shape)
    start = (x + BALL.radius / 2 * sign).clamp(0, 1)
    x_adv = _stepped(lambda z: cross_entropy(model(z), y) + change(z), start, x, BALL.radius)
    return cross_entropy(clean, y) + change(x_adv)


def ssat(model: nn.Module, x: Tensor, y: Tensor, *, ids: Tensor, seed: int) -> Tensor:
    """FGSM, shortened to the first third of its way that is wrong (Kim et al. 2021, arXiv 2010.01799)."""
    start = BALL.random_start(x, rng.derive(seed, "start"), ids)
    x_adv = _stepped(lambda z: cross_entropy(model(z), y), start, x, 1.25 * BALL.radius)
    way, last = x_adv - x, x_adv
    for share in (2 / 3, 1 / 3, 0.0):
        wrong = model(x + share * way).argmax(1) != y
        last = torch.where(wrong.view(-1, 1, 1, 1), x + share * way, last)
    return cross_entropy(model(last), y)


# on a robust net gradients are sparse and small
RECIPES: dict[str, tuple[Any, int]] = {
    "standard": (fa.train.Standard(), 2),
    "l2": (fa.train.PGDTraining(fa.L2(2.0), steps=STEPS, step_size=0.6), 5),
    "trades": (fa.train.TRADES(fa.Linf(0.2), steps=STEPS, step_size=0.07), 5),
    "mart": (fa.train.MART(fa.Linf(0.2), steps=STEPS, step_size=0.07), 5),
    "elle": (elle, 5),
    "nuat": (nuat, 5),
    "ssat": (ssat, 5),
    "mixer": (fa.train.TRADES(fa.Linf(0.2), steps=3, step_size=0.1, beta=5.0), 8),
    "gnres": (fa.train.PGDTraining(fa.Linf(8 / 255), steps=3), 8),
    "sp": (fa.train.PGDTraining(fa.L2(2.0), steps=3, step_size=1.0, label_smoothing=0.3), 6),
    "segments": (fa.train.PGDTraining(fa.Linf(0.1), steps=3, criterion=fa.attacks.Share(1.0)), 6),
}
# of some: images to train on, learning rate and weight decay
KEPT = {
    "trades": (15000, 4e-3, 0.0), "mart": (15000, 4e-3, 0.0),
    "elle": (15000, 4e-3, 0.0), "nuat": (15000, 4e-3, 0.0), "ssat": (15000, 4e-3, 0.0),
    "mixer": (12000, 4e-3, 0.01), "gnres": (10000, 5e-3, 0.05), "sp": (15000, 2e-3, 3.0),
    "segments": (8000, 4e-3, 0.0),
}  # fmt: skip


def reports(name: str, model: Any, train_set: Any, folder: Path) -> Iterator[fa.train.EpochReport]:
    """Train the model in place, epoch after epoch; a run that was stopped goes on."""
    if name == "linf":
        for radius, epochs, schedule in RAMP:
            growing = fa.train.PGDTraining(fa.Linf(radius), steps=STEPS, step_size=radius / 3)
            yield from fa.train.epochs(
                model, train_set, growing, epochs=epochs, optimizer="adam", learning_rate=0.002,
                batch_size=64, optimization=fa.train.Optimization(weight_decay=0.0, schedule=schedule),
                run_dir=folder / f"{radius}", resume=True,
            )  # fmt: skip
        return
    recipe, epochs = RECIPES[name]
    if name in KEPT:
        _, rate, decay = KEPT[name]
        ramp = 0.4 if hasattr(recipe, "threat") else None
        yield from fa.train.epochs(
            model, train_set, recipe, epochs=epochs, optimizer="adamw", learning_rate=rate, run_dir=folder,
            optimization=fa.train.Optimization(weight_decay=decay, schedule="one_cycle", ramp=ramp),
            resume=True,
        )  # fmt: skip
        return
    yield from fa.train.epochs(
        model, train_set, recipe, epochs=epochs, optimizer="adam", run_dir=folder, resume=True,
        optimization=fa.train.Optimization(weight_decay=0.0, schedule="cosine"),
    )  # fmt: skip


def train(name: str, data_dir: Path, folder: Path, say: Callable[[object], None] = print) -> torch.nn.Module:
    """The trained net of this name; what its run keeps is in `folder`."""
    model = untrained(name)
    limit = KEPT[name][0] if name in KEPT else None
    train_set: Any = fa.data.load(NETS[name].dataset, "train", data_dir=data_dir, limit=limit)
    if name in DENSE:
        x = train_set.x / 255
        train_set = x, ink(x, train_set.y)
    for report in reports(name, model, train_set, folder):
        say(report)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=list(SMALL), choices=SMALL)
    parser.add_argument("--data-dir", type=Path, default=DATA, help="folder that holds MNIST/raw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        model = train(name, options.data_dir, ROOT / "runs" / "bench" / "small" / name)
        card = {"made_by": f"python -m tools.parity_nets {name}", "trained_on": name}
        fa.models.save_weights(model.half(), WEIGHTS / f"{name}.safetensors", card)


if __name__ == "__main__":
    main()

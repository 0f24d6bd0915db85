"""The small nets that attacks are compared on: five, and those of tests/parity/nets.py.

    python -m tools.parity_nets [standard linf l2 trades mart mixer gnres sp segments] [--data-dir DIR]

trains them and writes their weights, in half precision, to tests/attacks/weights/: about 25 minutes of one
core. The runs are kept in runs/bench/small/, and what is done there is not done again: delete a folder to
train anew.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from tests.parity.models import DATA, DENSE, NETS, ROOT, SMALL, WEIGHTS, ink, untrained

STEPS = 5
RAMP = ((0.1, 1, "constant"), (0.2, 1, "constant"), (0.3, 3, "cosine"))  # radius, epochs, schedule
# on a robust net gradients are sparse and small
RECIPES: dict[str, tuple[fa.train.Recipe, int]] = {
    "standard": (fa.train.Standard(), 2),
    "l2": (fa.train.PGDTraining(fa.L2(2.0), steps=STEPS, step_size=0.6), 5),
    "trades": (fa.train.TRADES(fa.Linf(0.2), steps=STEPS, step_size=0.07), 5),
    "mart": (fa.train.MART(fa.Linf(0.2), steps=STEPS, step_size=0.07), 5),
    "mixer": (fa.train.TRADES(fa.Linf(0.2), steps=3, step_size=0.1, beta=5.0), 8),
    "gnres": (fa.train.PGDTraining(fa.Linf(8 / 255), steps=3), 8),
    "sp": (fa.train.PGDTraining(fa.L2(2.0), steps=3, step_size=1.0, label_smoothing=0.3), 6),
    "segments": (fa.train.PGDTraining(fa.Linf(0.1), steps=3, criterion=fa.attacks.Share(1.0)), 6),
}
# of some: images to train on, learning rate and weight decay
KEPT = {
    "trades": (15000, 4e-3, 0.0), "mart": (15000, 4e-3, 0.0),
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
        yield from fa.train.epochs(
            model, train_set, recipe, epochs=epochs, optimizer="adamw", learning_rate=rate, run_dir=folder,
            optimization=fa.train.Optimization(weight_decay=decay, schedule="one_cycle", ramp=0.4),
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

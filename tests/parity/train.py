"""The three small nets that attacks are compared on: undefended, and trained at L-infinity 0.3 and at L2 2.

    python -m tests.parity.train [standard linf l2] [--data-dir DIR]

trains them and writes their weights, in half precision, to tests/attacks/weights/: about 15 minutes of one
core. The runs are kept in runs/bench/small/, and what is done there is not done again: delete a folder to
train anew.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

import fastadv as fa
from fastadv.studies.schott2018.madry import Stage, climb
from tests.parity.models import DATA, SMALL, TRAINED, WEIGHTS

STEPS = 5
RAMP = (
    Stage("0.1", 0.1, 0.1 / 3, 1, "constant"),
    Stage("0.2", 0.2, 0.2 / 3, 1, "constant"),
    Stage("0.3", 0.3, 0.3 / 3, 3, "cosine"),
)
# on a robust net gradients are sparse and small
RECIPES: dict[str, tuple[fa.train.Recipe, int]] = {
    "standard": (fa.train.Standard(), 2),
    "l2": (fa.train.PGDTraining(fa.L2(2.0), steps=STEPS, step_size=0.6), 5),
}


def reports(name: str, model: Any, train_set: Any, folder: Path) -> Iterator[fa.train.EpochReport]:
    """Train the model in place, epoch after epoch; a run that was stopped goes on."""
    if name == "linf":
        return climb(model, train_set, RAMP, folder, steps=STEPS)
    recipe, epochs = RECIPES[name]
    return fa.train.epochs(
        model, train_set, recipe, epochs=epochs, optimizer="adam", run_dir=folder, resume=True,
        optimization=fa.train.Optimization(weight_decay=0.0, schedule="cosine"),
    )  # fmt: skip


def train(name: str, data_dir: Path, folder: Path, say: Callable[[object], None] = print) -> torch.nn.Module:
    """The trained net of this name; what its run keeps is in `folder`."""
    model = SMALL[name]()
    for report in reports(name, model, fa.data.load("mnist", "train", data_dir=data_dir), folder):
        say(report)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(SMALL), choices=SMALL)
    parser.add_argument("--data-dir", type=Path, default=DATA, help="folder that holds MNIST/raw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.names:
        model = train(name, options.data_dir, TRAINED / "small" / name)
        card = {"made_by": f"python -m tests.parity.train {name}", "trained_on": name}
        fa.models.save_weights(model.half(), WEIGHTS / f"{name}.safetensors", card)


if __name__ == "__main__":
    main()

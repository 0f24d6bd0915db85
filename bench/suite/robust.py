"""A small network trained on adversarial images at L-infinity 0.3, on which gradients are sparse and small.

    python -m bench.suite.robust [--data-dir DIR]

trains it and writes its weights, in half precision, to tests/attacks/robust.safetensors: about 10 minutes of
one core. At that radius training from random weights stays at chance, so the radius grows in three runs.
"""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

import fastadv as fa
from bench.suite.models import DATA, ROBUST, small_robust

# radius, epochs
RAMP = ((0.1, 1), (0.2, 1), (0.3, 3))


def train(data_dir: Path, folder: Path) -> nn.Module:
    """The trained net; the runs are kept in `folder`."""
    train_set, model = fa.data.load("mnist", "train", data_dir=data_dir), small_robust()
    for radius, epochs in RAMP:
        recipe = fa.train.PGDTraining(fa.Linf(radius), steps=5, step_size=radius / 3)
        reports = fa.train.fit(
            model, train_set, recipe, epochs=epochs, optimizer="adam", learning_rate=0.002, weight_decay=0.0,
            batch_size=64, schedule="cosine" if radius == 0.3 else "constant", run_dir=folder / f"{radius}",
            resume=(folder / f"{radius}").exists(),
        )  # fmt: skip
        for report in reports:
            print(report, flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=DATA, help="folder that holds MNIST/raw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        model = train(options.data_dir, Path(folder))
    fa.models.save_weights(model.half(), ROBUST, {"made_by": "python -m bench.suite.robust", "radius": 0.3})


if __name__ == "__main__":
    main()

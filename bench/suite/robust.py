"""A small network trained on adversarial images at L-infinity 0.3, on which gradients are sparse and small.

    python -m bench.suite.robust [--data-dir DIR]

trains it and writes its weights, in half precision, to tests/attacks/robust.safetensors: about 10 minutes of
one core. Its runs are kept in runs/bench/madry, and what is done there is not done again: delete the folder
to train anew.
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import fastadv as fa
from bench.suite.models import DATA, ROBUST, TRAINED, small_robust
from fastadv.studies.schott2018.madry import Stage, climb

STEPS = 5
RAMP = (
    Stage("0.1", 0.1, 0.1 / 3, 1, "constant"),
    Stage("0.2", 0.2, 0.2 / 3, 1, "constant"),
    Stage("0.3", 0.3, 0.3 / 3, 3, "cosine"),
)


def train(data_dir: Path, folder: Path) -> nn.Module:
    """The trained net; the runs are kept in `folder`."""
    model = small_robust()
    for report in climb(model, fa.data.load("mnist", "train", data_dir=data_dir), RAMP, folder, steps=STEPS):
        print(report, flush=True)
    return model.eval()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-dir", type=Path, default=DATA, help="folder that holds MNIST/raw")
    options = parser.parse_args()
    torch.set_num_threads(1)
    model = train(options.data_dir, TRAINED / "madry")
    fa.models.save_weights(model.half(), ROBUST, {"made_by": "python -m bench.suite.robust", "radius": 0.3})


if __name__ == "__main__":
    main()

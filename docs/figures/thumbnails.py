"""Draw thumbnails.png: images of CIFAR-10 above what D_rand of Ilyas et al. 2019 makes of them.

python docs/figures/thumbnails.py --data-dir FOLDER
"""

import argparse
from pathlib import Path

import fastadv as fa
from fastadv.card import telling

IMAGES, EPOCHS = 10_000, 8
DRAWN = 50  # images, with each class among them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-dir", type=Path, help="the folder that holds CIFAR-10")
    train = fa.data.load("cifar10", "train", data_dir=parser.parse_args().data_dir, limit=IMAGES)
    model = fa.models.create("small_cnn", shape=train.shape, width=32)
    fa.train.fit(model, train, fa.train.Standard(), epochs=EPOCHS)
    few = fa.data.ImageSet(train.x[:DRAWN], train.y[:DRAWN], train.classes, "CIFAR-10")
    made = fa.data.construct.random_target(model, few, threat=fa.L2(0.5), steps=100, step_size=0.1)
    with telling(command="python docs/figures/thumbnails.py", seed=0):
        fa.figures.thumbnails(made, few, Path(__file__).with_suffix(".png"), per_class=1)


if __name__ == "__main__":
    main()

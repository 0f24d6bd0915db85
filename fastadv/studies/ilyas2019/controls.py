"""What the discussion of the paper asked for (distill.pub/2019/advex-bugs-discussion), measured on its sets.

- Do the images of D_rand and D_det fool a net that they were not made with?
- Do their labels leak through robust features? D_det tells: its robust features speak for another class than
  its labels, so that what a net gains from them speaks against the true class (Goh, response 2).
- Do wrong labels teach without any perturbation? (Wallace, response 6)
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.data.imageset import to_unit
from fastadv.studies.ilyas2019.maker import Maker, read
from fastadv.studies.ilyas2019.plan import Training

PUSHED = ("D_rand", "D_det")
DIRECTIONS, MEASURED = (
    64,
    1000,
)  # candidates for robust features, and images on which their margin is measured


def fooling(maker: Maker) -> dict[str, Any]:
    """Return that of the images whose label is not their own: how many get which label from two standard
    nets.

    One is the net they were made with, one an independent net of the same architecture and images.
    """
    independent, found = maker.net("independent"), {}
    for name in PUSHED:
        made = maker.set(name)
        changed = made.y != made.original_labels
        seen = {"source": made.figures["predicted"], "independent": read(independent, made)}
        found[name] = {
            who: {
                "label": _share(labels == made.y, changed),
                "true": _share(labels == made.original_labels, changed),
            }
            for who, labels in seen.items()
        }
    return found


def leakage(maker: Maker) -> dict[str, Any]:
    """Return how a linear model on provably robust features, taught by each set, reads the test images.

    Features are projections on class means and principal components of the images; those are kept that stay
    useful for some class under any perturbation of the sets' radius. `true`: share of the true class, `next`:
    of the one after it, which robust features stand for in D_det. `net` is what the trained nets say.
    """
    base, test = maker.base, maker.test
    directions = robust_directions(base, fa.L2(maker.settings.push_radius))
    sets: dict[str, ImageSet] = {"D": base} | {name: maker.set(name) for name in PUSHED}
    linear = {name: _answers(linear_model(made, test, directions), test) for name, made in sets.items()}
    nets = {name: _answers(read(maker.net(name), test), test) for name in PUSHED}
    return {"features": len(directions), "linear": linear, "net": nets}


def early_labels(maker: Maker) -> dict[str, Any]:
    """Return what a net learns from the images alone that an early net mislabels, with these labels."""
    base, test, s = maker.base, maker.test, maker.settings
    early = maker.taught("early", base, Training(schedule="constant", epochs=s.early_epochs))
    said = read(early, base)
    wrong = (said != base.y).nonzero().squeeze(1)
    accuracy = _share(read(early, test) == test.y)
    found: dict[str, Any] = {
        "epochs": s.early_epochs,
        "early": accuracy,
        "images": len(wrong),
        "taught": None,
    }
    if len(wrong):
        mislabeled = ImageSet(
            base.x[wrong], said[wrong], base.classes, f"{base.name}, mislabeled", note=base.note
        )
        taught = maker.taught("early labels", mislabeled, Training(augmented=False))
        found["taught"] = _share(read(taught, test) == test.y)
    return found


def robust_directions(base: ImageSet, threat: fa.L2) -> Tensor:
    """Return [F, D], unit directions along which a feature is useful for some class against any
    perturbation.
    """
    x = to_unit(base.x).flatten(1)
    means = torch.stack([x[base.y == k].mean(0) for k in sorted(set(base.y.tolist()))]) - x.mean(0)
    principal = torch.linalg.eigh(torch.cov(x.T).double())[1].T.flip(0)[:DIRECTIONS].float()
    directions = normalize(torch.cat([means, principal]))
    count, size = directions.shape
    projection, readout = nn.Linear(size, count, bias=False), nn.Linear(count, base.num_classes)
    projection.weight.data.copy_(directions)
    model = nn.Sequential(nn.Flatten(), projection, readout)
    picked = base.subset(range(min(len(base), MEASURED)))
    gamma = fa.features.usefulness(model, picked, threat, batch_size=1024).gamma  # exact: they are linear
    return directions[(gamma > 0).any(1)]


def linear_model(taught: ImageSet, test: ImageSet, directions: Tensor) -> Tensor:
    """Return [N], the classes of the test images by least squares on one-hot labels of `taught`."""
    features = [_features(images, directions) for images in (taught, test)]
    labels = one_hot(taught.y, taught.num_classes).double()
    weights = torch.linalg.lstsq(features[0], labels).solution
    scores: Tensor = features[1] @ weights
    return scores.argmax(1)


def _features(images: ImageSet, directions: Tensor) -> Tensor:
    """Return [N, F + 1], float64: the features, and 1."""
    values = (to_unit(images.x).flatten(1) @ directions.T).double()
    return torch.cat([values, torch.ones(len(values), 1, dtype=torch.float64)], 1)


def _answers(said: Tensor, test: ImageSet) -> dict[str, float]:
    return {"true": _share(said == test.y), "next": _share(said == (test.y + 1) % test.num_classes)}


def _share(right: Tensor, among: Tensor | None = None) -> float:
    """Return the share of True, among some of them; 0 where there are none."""
    chosen = right if among is None else right[among]
    return chosen.double().mean().item() if len(chosen) else 0.0

"""Controls of distill.pub/2019/advex-bugs-discussion: other nets, robust features alone, labels alone."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize, one_hot

import fastadv as fa
from fastadv.data import ImageSet
from papers.ilyas2019.maker import Maker, read, share
from papers.ilyas2019.plan import Training
from papers.ilyas2019.usefulness import usefulness
from papers.study import unit

DIRECTIONS = 64  # candidates for robust features
MEASURED = 1000  # images on which their margin is measured


def fooling(maker: Maker) -> dict[str, Any]:
    """Return how many of the images whose label is not their own get which label from two standard nets."""
    independent, found = maker.net("independent"), {}
    for name in maker.settings.pushed:
        made = maker.set(name)
        changed = made.y != made.original_labels
        labels = {"label": made.y, "true": made.original_labels}
        seen = {"source": made.figures["predicted"], "independent": read(independent, made)}
        found[name] = {
            who: {what: share(said == label, changed) for what, label in labels.items()}
            for who, said in seen.items()
        }
    return found


def leakage(maker: Maker) -> dict[str, Any]:
    """Return how a linear model on provably robust features, taught by each set, reads the test set."""
    # after Goh, response 2 of the discussion: in D_det robust features speak for the class after the true one
    base, test, pushed = maker.base, maker.test, maker.settings.pushed
    directions = robust_directions(base, fa.L2(maker.settings.push_radius))
    sets: dict[str, ImageSet] = {"D": base} | {name: maker.set(name) for name in pushed}
    linear = {name: _answers(linear_model(made, test, directions), test) for name, made in sets.items()}
    nets = {name: _answers(read(maker.net(name), test), test) for name in pushed}
    return {"features": len(directions), "linear": linear, "net": nets}


def early_labels(maker: Maker) -> dict[str, Any]:
    """Return what a net learns from the images alone that an early net mislabels, with these labels."""
    base, test, epochs = maker.base, maker.test, maker.settings.early_epochs
    early = maker.taught("early", base, Training(schedule="constant", epochs=epochs))
    said = read(early, base)
    wrong = (said != base.y).nonzero().squeeze(1)
    taught = None
    if len(wrong):
        name = f"{base.name}, mislabeled"
        mislabeled = ImageSet(base.x[wrong], said[wrong], base.classes, name, note=base.note)
        net = maker.taught("early labels", mislabeled, Training(augmented=False))
        taught = share(read(net, test) == test.y)
    accuracy = share(read(early, test) == test.y)
    return {"epochs": epochs, "early": accuracy, "images": len(wrong), "taught": taught}


def robust_directions(base: ImageSet, threat: fa.L2) -> Tensor:
    """Return unit directions [F, D] of features useful for some class against any perturbation."""
    x = unit(base.x).flatten(1)
    means = torch.stack([x[base.y == k].mean(0) for k in sorted(set(base.y.tolist()))]) - x.mean(0)
    principal = torch.linalg.eigh(torch.cov(x.T).double())[1].T.flip(0)[:DIRECTIONS].float()
    directions = normalize(torch.cat([means, principal]))
    count, size = directions.shape
    projection, readout = nn.Linear(size, count, bias=False), nn.Linear(count, base.num_classes)
    projection.weight.data.copy_(directions)
    model = nn.Sequential(nn.Flatten(), projection, readout)
    picked = base.subset(range(min(len(base), MEASURED)))
    gamma = usefulness(model, picked, threat, batch_size=1024).gamma  # exact: they are linear
    return directions[(gamma > 0).any(1)]


def linear_model(taught: ImageSet, test: ImageSet, directions: Tensor) -> Tensor:
    """Return [N], the classes of the test images by least squares on one-hot labels of `taught`."""

    def features(images: ImageSet) -> Tensor:  # and 1, [N, F + 1]
        values = (unit(images.x).flatten(1) @ directions.T).double()
        return torch.cat([values, torch.ones(len(values), 1, dtype=torch.float64)], 1)

    labels = one_hot(taught.y, taught.num_classes).double()
    weights = torch.linalg.lstsq(features(taught), labels).solution
    scores: Tensor = features(test) @ weights
    return scores.argmax(1)


def _answers(said: Tensor, test: ImageSet) -> dict[str, float]:
    return {"true": share(said == test.y), "next": share(said == (test.y + 1) % test.num_classes)}

"""Lower bounds: no perturbation within the radius changes the decision, whatever latents are searched."""

import math

import pytest
import torch

from fastadv.errors import InputError
from fastadv.models.abs import bounds

from .nets import images, tiny


def model_and_images(count=12, **options):
    model = tiny(latents=1, prior_samples=300, **options)
    x, _ = images(model, count, noise=0.2)
    x = x.round() if options.get("binary") else x
    return model, x, model(x).argmax(1)


@pytest.mark.parametrize(
    ("factors", "own", "others", "needed"),
    [
        ([1.0, 1.0, 2.0], 3.0, [10.0, 9.0], 4),  # 3 + 3.5 = 10 - 3.5, and 2 * (9 - 5) = 3 + 5
        ([1.0, 1.0], 9.0, [9.0], 0),  # another class is as good
        ([1.0, 1.0], 3.0, [9.0 + 3e-6], 3),  # single precision cannot tell it from 9: there is no fourth
    ],
)
def test_crossings_until_another_class_is_as_good(factors, own, others, needed):
    losses = torch.tensor([own]), torch.tensor([[math.inf, *others]])
    found = bounds._crossings(torch.tensor(factors), *losses, torch.tensor([0]), 64)
    assert found.tolist() == [needed]


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["l2", "linf"])
@pytest.mark.parametrize("binary", [False, True])
def test_bounds_are_computed_in_single_precision_and_without_pruning(binary, norm):
    options = {"binary": binary, "factors": [1.0, 0.95, 1.05]}
    exact, x, y = model_and_images(**options)
    given, x, _ = model_and_images(**options, precision="bf16", prune=True, prune_gain=0.9)
    kept = given(x).argmax(1) == y
    assert kept.any()
    expected = exact.lower_bound(x, y, norm=norm, tight=True)
    assert torch.equal(given.lower_bound(x, y, norm=norm, tight=True), expected.where(kept, 0.0))


def test_bad_input():
    model, x, y = model_and_images()
    for options, word in (
        ({"norm": "l1"}, "norm"),
        ({"starts": 0}, "starts"),
        ({"starts": 301}, "starts"),
        ({"starts": 1.5}, "starts"),
    ):
        with pytest.raises(InputError, match=word):
            model.lower_bound(x, y, **options)
    for labels in (y[:-1], y + 3, y - 3, y.float(), y[:, None]):
        with pytest.raises(InputError, match="y"):
            model.lower_bound(x, labels)

"""Labels that are no classes: one sentence says what to pass, on every road."""

from functools import partial
from math import comb
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset, default_collate

import fastadv as fa
from fastadv.errors import InputError
from fastadv.labels import are_one_hot, instead, label_flags

X = fa.data.load("digits", "test").x[:12]
NET = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
Y, THREAT = NET(X).argmax(1), fa.Linf(0.1)
ROWS = torch.nn.functional.one_hot(Y, 10)
SOFT = 0.7 * ROWS + 0.3 * ROWS.roll(1, 0)
SIGNS, BEYOND = "criterion=fastadv.attacks.Signs()", "criterion=fastadv.attacks.Beyond(distance)"

SENTENCES = [
    (ROWS, "of one-hot rows pass y.argmax(1)"),
    (ROWS.bool(), "of one-hot rows pass y.argmax(1)"),
    (SOFT.bfloat16(), "of probabilities pass the likeliest class, y.argmax(1)"),
    (Y[:, None], "for classes pass y.squeeze(1)"),
    (1.0 * Y[:, None], f"for numbers to predict pass {BEYOND}, for classes y.squeeze(1).long()"),
    (Y % 2 == 0, f"for one logit pass {SIGNS}, for classes y.long()"),
    (torch.tensor([[1, 1], [0, 0]] * 6), f"for labels of which several hold pass {SIGNS}"),
    (2 * ROWS - 0.1, f"for numbers to predict pass {BEYOND}"),
    (Y[:, None].expand(12, 4), "for classes at positions pass criterion=fastadv.attacks.Share(least)"),
]


@pytest.mark.parametrize(("y", "sentence"), SENTENCES, ids=range(len(SENTENCES)))
def test_what_to_pass(y: Tensor, sentence: str) -> None:
    assert instead("y", y, 12) == f"; {sentence}"
    assert instead("y", y, 11) == ""


def loader(y: Tensor, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, y), 5, **options)


FGSM, fit = (
    partial(fa.attacks.fgsm, threat=THREAT),
    partial(fa.train.fit, NET, recipe="pgd", threat=THREAT, epochs=1),
)
ROADS: dict[str, Any] = {
    "pgd": lambda y: fa.attacks.pgd(NET, X, y, THREAT),
    "autoattack": lambda y: fa.attacks.autoattack(NET, X, y, THREAT, version="quick"),
    "last_iterate": lambda y: fa.attacks.last_iterate(NET, X, y, THREAT, steps=1, step_size=0.1),
    "evaluate": lambda y: fa.evaluate(NET, (X, y), FGSM),
    "loader": lambda y: fa.evaluate(NET, loader(y), FGSM),
    "own loader": lambda y: fa.evaluate(NET, loader(y, collate_fn=lambda each: default_collate(each)), FGSM),
    "batches": lambda y: fa.evaluate(NET, [(X[:5], y[:5]), (X[5:], y[5:])], FGSM),
    "curve": lambda y: fa.accuracy_against_radius(NET, (X, y), lambda radius: FGSM, [0.1]),
    "universal": lambda y: fa.attacks.universal(NET, (X, y), THREAT, epochs=1),
    "smooth": lambda y: fa.certify.smooth(NET, (X, y), 0.25, n=100, sound=False),
    "fit": lambda y: fit((X, y)),
    "fit a loader": lambda y: fit(loader(y)),
    "construct": lambda y: fa.data.construct.random_target(NET, TensorDataset(X, y), threat=THREAT, steps=1),
    "ImageSet": lambda y: fa.data.ImageSet(X, y, 10, "mine"),
    "craft": lambda y: fa.train.craft(fa.train.PGDTraining(THREAT), NET, X, y),
    "mart": lambda y: fa.train.MART(THREAT)(NET, X, y),
    "score": lambda y: fa.train.SCORE(THREAT)(NET, X, y),
    "smoothadv": lambda y: fa.train.SmoothAdv(fa.L2(1), 0.1)(NET, X, y),
}


@pytest.mark.parametrize("road", ROADS)
def test_every_road(road: str) -> None:
    for y, advice in ((1.0 * ROWS, "y.argmax(1)"), (SOFT, "y.argmax(1)"), (Y[:, None], "y.squeeze(1)")):
        with pytest.raises(InputError) as refused:
            ROADS[road](y)
        assert str(refused.value).endswith(advice)


@pytest.mark.parametrize("recipe", [fa.train.Standard(), fa.train.TRADES(THREAT, steps=1)], ids=str)
def test_a_cross_entropy_of_soft_labels_is_trained_on_purpose(recipe: Any) -> None:
    assert recipe(NET, X, SOFT, seed=0).isfinite()
    with pytest.raises(InputError, match=r"pass y\.squeeze\(1\)$"):
        recipe(NET, X, Y[:, None], seed=0)


def test_labels_are_suspected_where_one_batch_of_guesses_in_a_thousand_has_so_few() -> None:
    for count, classes in ((100, 10), (40, 5), (1000, 100), (30, 10)):
        chance = [comb(count, k) * (classes - 1) ** (count - k) / classes**count for k in range(count)]
        flagged = [bool(label_flags(right, count, classes)) for right in range(1, count)]
        assert flagged == [sum(chance[: right + 1]) < 0.001 for right in range(1, count)]


def test_rows_of_one_class_are_no_one_hot_masks() -> None:
    assert not are_one_hot(torch.tensor([[[1, 1, 1], [0, 0, 0]]]), -1)
    assert are_one_hot(torch.tensor([[[1, 1, 0], [0, 0, 1]]]), -1)

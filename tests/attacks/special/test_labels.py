"""Labels that are no classes: one sentence says what to pass, on every road."""

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

import fastadv as fa
from fastadv.attacks.special.labels import instead
from fastadv.errors import InputError

X = fa.data.load("digits", "test").x[:12]
NET = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
Y = NET(X).argmax(1)
THREAT = fa.Linf(0.1)
FGSM = partial(fa.attacks.fgsm, threat=THREAT)
ROWS = torch.nn.functional.one_hot(Y, 10)
TAGS = torch.tensor([[1, 1, 0], [0, 0, 0]]).repeat(6, 1)
SIGNS, BEYOND = "criterion=fastadv.attacks.Signs()", "criterion=fastadv.attacks.Beyond(distance)"

SENTENCES = [
    (ROWS, "of one-hot rows pass y.argmax(1)"),
    (ROWS.bool(), "of one-hot rows pass y.argmax(1)"),
    (ROWS.half(), "of one-hot rows pass y.argmax(1)"),
    (0.9 * ROWS + 0.01, "of soft labels pass the likeliest class, y.argmax(1)"),
    (torch.randn(12, 3).softmax(1).bfloat16(), "of soft labels pass the likeliest class, y.argmax(1)"),
    (Y[:, None], "for classes pass y.squeeze(1)"),
    (Y[:, None, None].short(), "for classes pass y.flatten()"),
    (1.0 * Y[:, None], f"for classes pass y.squeeze(1).long(), for numbers to predict {BEYOND}"),
    (Y.double(), f"for classes pass y.long(), for numbers to predict {BEYOND}"),
    (Y % 2 == 0, f"for classes pass y.long(), for one logit {SIGNS}"),
    (Y[:, None] % 2, f"for classes pass y.squeeze(1), for one logit {SIGNS}"),
    (TAGS, f"for labels of which several hold pass {SIGNS}"),
    (Y / 7, f"for numbers to predict pass {BEYOND}"),
    (2 * ROWS - 0.1, f"for numbers to predict pass {BEYOND}"),
    (Y[:, None].expand(12, 4), "for classes at positions pass criterion=fastadv.attacks.Share(least)"),
]  # fmt: skip


@pytest.mark.parametrize(("y", "sentence"), SENTENCES, ids=[f"{n}" for n in range(len(SENTENCES))])
def test_what_to_pass(y: Tensor, sentence: str) -> None:
    assert instead("y", y, 12) == f"; {sentence}"
    assert instead("y", y, 11) == ""


def by_loader(y: Tensor) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, y), 5)


def by_own_loader(y: Tensor) -> DataLoader[Any]:
    def collate(items: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        return tuple(torch.stack(part) for part in zip(*items, strict=True))

    return DataLoader(TensorDataset(X, y), 5, collate_fn=collate)


ROADS: dict[str, Callable[[Tensor], Any]] = {
    "pgd": lambda y: fa.attacks.pgd(NET, X, y, THREAT),
    "autoattack": lambda y: fa.attacks.autoattack(NET, X, y, THREAT, version="quick"),
    "last_iterate": lambda y: fa.attacks.last_iterate(NET, X, y, THREAT, steps=1, step_size=0.1),
    "evaluate": lambda y: fa.evaluate(NET, (X, y), "fgsm", threat=THREAT),
    "loader": lambda y: fa.evaluate(NET, by_loader(y), "fgsm", threat=THREAT),
    "own loader": lambda y: fa.evaluate(NET, by_own_loader(y), "fgsm", threat=THREAT),
    "batches": lambda y: fa.evaluate(NET, [(X[:5], y[:5]), (X[5:], y[5:])], "fgsm", threat=THREAT),
    "curve": lambda y: fa.accuracy_against_radius(NET, (X, y), lambda r: FGSM, [0.1]),
    "universal": lambda y: fa.attacks.universal(NET, (X, y), THREAT, epochs=1),
    "smooth": lambda y: fa.certify.smooth(NET, (X, y), 0.25, n=100, sound=False),
    "fit": lambda y: fa.train.fit(NET, (X, y), "pgd", threat=THREAT, epochs=1),
    "fit a loader": lambda y: fa.train.fit(NET, by_loader(y), "pgd", threat=THREAT, epochs=1),
    "construct": lambda y: fa.data.construct.random_target(
        NET, TensorDataset(X, y), threat=fa.L2(1), steps=1
    ),
    "ImageSet": lambda y: fa.data.ImageSet(X, y, 10, "mine"),
    "craft": lambda y: fa.train.craft(fa.train.PGDTraining(THREAT), NET, X, y),
    "mart": lambda y: fa.train.MART(THREAT)(NET, X, y),
    "score": lambda y: fa.train.SCORE(THREAT)(NET, X, y),
    "smoothadv": lambda y: fa.train.SmoothAdv(fa.L2(1), 0.1)(NET, X, y),
}  # fmt: skip


@pytest.mark.parametrize("road", ROADS)
@pytest.mark.parametrize(
    ("y", "advice"),
    [(ROWS.float(), "y.argmax(1)"), (0.8 * ROWS + 0.02, "y.argmax(1)"), (Y[:, None], "y.squeeze(1)")],
    ids=["one-hot", "soft", "column"],
)
def test_every_road(road: str, y: Tensor, advice: str) -> None:
    with pytest.raises(InputError) as refused:
        ROADS[road](y)
    assert str(refused.value).endswith(advice)


@pytest.mark.parametrize("recipe", [fa.train.Standard(), fa.train.TRADES(THREAT, steps=1)], ids=str)
def test_a_cross_entropy_of_soft_labels_is_trained_on_purpose(recipe: Any) -> None:
    soft = 0.7 * ROWS + 0.3 * ROWS.roll(1, 0)
    assert recipe(NET, X, soft.float(), seed=0).isfinite()
    for other in (ROWS, Y[:, None]):
        with pytest.raises(InputError, match=r"pass y\.(argmax|squeeze)\(1\)$"):
            recipe(NET, X, other, seed=0)

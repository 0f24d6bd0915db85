"""Recipes of models with other outputs than classes."""

import pytest
import torch
from torch import nn
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

import fastadv as fa
from fastadv.attacks import Beyond, Criterion, Share, Signs, WrongBy
from fastadv.errors import InputError
from tests.refusals import refuses

X = torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(4))
DRAWN = torch.Generator().manual_seed(5)
BITS = torch.randint(2, (6, 3), generator=DRAWN)
CLASSES = torch.randint(3, (6, 8, 8), generator=DRAWN)


def net(*layers):
    torch.manual_seed(1)
    for layer in layers:
        layer.reset_parameters()
    return nn.Sequential(*([nn.Flatten()] if isinstance(layers[0], nn.Linear) else []), *layers)


def ignoring(z, y):
    return torch.stack([cross_entropy(z[i : i + 1], y[i : i + 1], ignore_index=2) for i in range(6)]).mean()


CASES = {
    "tags": (
        net(nn.Linear(64, 3)), BITS, Signs(),
        lambda z, y: binary_cross_entropy_with_logits(z, y.float()),
    ),
    "one logit": (
        net(nn.Linear(64, 1)), BITS[:, :1].float(), Signs(), binary_cross_entropy_with_logits,
    ),
    "dense": (net(nn.Conv2d(1, 3, 3, padding=1)), CLASSES, Share(0.5), cross_entropy),
    "ignored": (net(nn.Conv2d(1, 3, 3, padding=1)), CLASSES, Share(0.5, ignore=2), ignoring),
    "number": (net(nn.Linear(64, 1)), BITS[:, :1].float(), Beyond(0.1), mse_loss),
    "embedding": (
        net(nn.Linear(64, 5)), torch.rand(6, 5, generator=DRAWN), Beyond(0.1, by="cosine"),
        lambda z, y: (1 - torch.cosine_similarity(z, y)).mean(),
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_the_loss_is_that_of_torch(case):
    model, y, criterion, loss = CASES[case]
    expected = loss(model(X), y)
    got = fa.train.Standard(criterion=criterion)(model, X, y)
    assert got.item() == pytest.approx(expected.item(), rel=1e-5)
    half = fa.train.FGSMTraining(fa.Linf(0.1), criterion=criterion)
    leaf = X.clone().requires_grad_()
    raised = loss(model(leaf), y)
    if isinstance(criterion, Share):  # in the units of each image
        raised = criterion.loss("ce")(model(leaf), y, None).sum()
    raised.backward()
    mixed = (expected + loss(model((X + 0.1 * leaf.grad.sign()).clamp(0, 1)), y)) / 2
    assert half(model, X, y).item() == pytest.approx(mixed.item(), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tags", "ignored", "embedding"])
def test_a_run_measures_by_the_criterion(case, tmp_path):
    model, y, criterion, _ = CASES[case]
    recipe = fa.train.PGDTraining(fa.Linf(0.02), steps=2, criterion=criterion)
    options = {"test_set": (X, y), "test_attacks": "pgd", "threat": fa.Linf(0.02), "batch_size": 3}
    options |= {"epochs": 2, "learning_rate": 0.01, "run_dir": tmp_path}
    first, last = fa.train.fit(model, (X, y), recipe, **options)
    assert last.loss < first.loss
    table = fa.evaluate(model, (X, y), "pgd", threat=fa.Linf(0.02), criterion=criterion)
    assert last.clean_accuracy == table.clean_accuracy
    assert last.robust_accuracy["pgd"] == table["pgd"].robust_accuracy


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("criterion: expected None for classes", {"criterion": kind})
        for kind in (WrongBy(1.0), Criterion(), "signs")
    ]
    + [("label_smoothing: expected", {"criterion": Signs(), "label_smoothing": 0.1})]
    + [("loss: expected", {"criterion": Signs(), "loss": "bce"})],
)
def test_criteria_of_classes_and_what_is_of_classes_alone_are_refused(name, options):
    refuses(name, fa.train.Standard, **options)


@pytest.mark.parametrize(
    ("model", "y", "criterion"),
    [
        (net(nn.Conv2d(1, 3, 3, padding=1)), CLASSES, Share(0.5, ignore=-1)),
        (net(nn.Linear(64, 3)), BITS, Signs()),
    ],
)
def test_a_sample_without_labels_teaches_nothing(model, y, criterion):
    recipe, part = fa.train.Standard(criterion=criterion), y.clone()
    part[2:] = -1
    assert recipe(model, X, part).item() == pytest.approx(recipe(model, X[:2], y[:2]).item() / 3, rel=1e-5)
    recipe(model, X, part).backward()
    assert all(weight.grad.isfinite().all() for weight in model.parameters())


def test_a_label_out_of_range_is_named_wherever_it_is():
    model, y = net(nn.Conv2d(1, 3, 3, padding=1)), CLASSES.clone()
    y[5, 0, 0] = 7
    with pytest.raises(InputError, match=r"train_set: expected classes 0 to 2.*got 7"):
        fa.train.fit(model, (X, y), fa.train.Standard(criterion=Share(0.5)), epochs=1, batch_size=2)


DIGITS = fa.data.load("digits", "test").x[:12]
THREAT, AWAY = fa.Linf(0.1), fa.attacks.Beyond(0.5)


def encoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh())


UNLABELED = [
    fa.train.PGDTraining(THREAT, random_start=False, criterion=AWAY),
    fa.train.PGDTraining(THREAT, criterion=fa.attacks.Beyond(0.1, by="cosine")),
    fa.train.FGSMTraining(THREAT, criterion=AWAY),
]


@pytest.mark.parametrize("recipe", UNLABELED, ids=str)
def test_a_recipe_without_labels_trains(recipe):
    net = encoder()
    x_adv, noise = fa.train.craft(recipe, net, DIGITS, None, seed=0), THREAT.random_start(DIGITS, seed=1)
    apart, by_chance = ((net(points) - net(DIGITS)).norm(dim=1) for points in (x_adv, noise))
    assert (apart > 1.5 * by_chance).all()
    recipe(net, DIGITS, None, seed=0).backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in net.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("around", [lambda recipe: recipe, fa.train.AWP], ids=["alone", "awp"])
def test_fit_takes_images_alone(around):
    first, *_, last = fa.train.fit(encoder(), (DIGITS, None), around(UNLABELED[0]), epochs=20)
    assert 0 < last.loss < 0.95 * first.loss


@pytest.mark.parametrize("recipe", [fa.train.TRADES(THREAT), fa.train.Standard()], ids=str)
def test_others_say_that_labels_are_missing(recipe):
    refuses(r"y: expected .* got None", recipe, encoder(), DIGITS, None)

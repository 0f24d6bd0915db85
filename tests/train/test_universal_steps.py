"""The steps of a universal perturbation: counted by hand, in any number of batches, and resumed."""

import math
from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from tests.train.nets import stopped
from tests.train.test_universal import WIDE, images, labeled, margin, net, same, universal

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("attack", ["apgd", "pgd"])
@pytest.mark.parametrize("batch_size", [10, 16, 33])
def test_a_loss_is_that_of_all_samples_of_an_epoch(attack, batch_size):
    model, looks = net(width=8, seed=3), []
    x, y = labeled(model, images(40))

    def add(images, t):
        if t.requires_grad:
            labels = y[(images[:, None] == x).flatten(2).all(2).int().argmax(1)]
            looks.append((t[0].detach(), margin(model(images + t), labels).detach()))
        return images + t

    threat = fa.Through(add, fa.Linf(0.5, box=WIDE), torch.zeros_like, box=WIDE)
    out = universal(model, (x, y), threat, attack=attack, epochs=6, batch_size=batch_size)
    steps = math.ceil(40 / batch_size)
    epochs = [looks[k : k + steps] for k in range(0, len(looks), steps)]
    assert len(epochs) == 6
    assert out.losses == pytest.approx([torch.cat([m for _, m in each]).mean().item() for each in epochs])
    assert out.flags == ()
    soft = 0.1 * looks[0][1].abs().mean()
    scores = [
        [m / (soft + m.abs()) for k, (_, m) in enumerate(each) if number or k]  # the first step has no score
        for number, each in enumerate(epochs)
    ]
    best = max(range(6), key=lambda number: torch.cat(scores[number]).mean())
    assert torch.equal(out.parameters, epochs[best][-1][0])


@pytest.mark.parametrize("attack", ["apgd", "pgd"])
def test_a_further_ascent_begins_at_the_point_that_seed_and_epoch_draw(attack):
    looks, (x, y) = [], labeled(net(), images(4))

    def add(images, t):
        looks.extend(t[:1].detach() for _ in range(t.requires_grad))
        return images + t

    threat = fa.Through(add, fa.Linf(0.5, box=WIDE), torch.zeros_like, box=WIDE)
    universal(net(), (x, y), threat, attack=attack, epochs=75, seed=3)
    key, origin = fa.rng.derive(3, "universal"), torch.zeros(1, 1, 6, 6)
    for epoch in (25, 50):
        start = threat.ball.random_start(origin, seed=key, ids=torch.tensor([epoch]))
        assert torch.equal(looks[epoch], start)
    assert not looks[0].any()


@pytest.mark.parametrize(("seed", "make"), [(1, fa.L2), (6, fa.Linf)])
def test_a_run_goes_on_from_any_epoch(make, seed, tmp_path):
    model, x = net(width=8, seed=seed), torch.zeros(1, 1, 6, 6)
    with torch.no_grad():
        model[1].weight.mul_(20)
    run = partial(universal, model, labeled(model, x), make(2.0, box=WIDE), epochs=14)
    for end in range(1, 14):
        stopped(end + 1, run, run_dir=tmp_path, resume=end > 1)
    same(run(run_dir=tmp_path, resume=True), run())


@pytest.mark.parametrize("eot", [1, 2, 3])
def test_passes_are_what_the_model_saw(eot):
    seen, model = [], net()
    model.register_forward_hook(lambda module, given, out: seen.append(len(out)))
    frozen = fa.engine.freeze(model, eot=eot)
    data = labeled(net(), images())
    seen.clear()
    out = universal(frozen, data, fa.Linf(0.1), epochs=3, batch_size=16)
    assert out.forwards == sum(seen)
    assert out.backwards == 3 * 40 * eot


@pytest.mark.parametrize("criterion", [None, fa.attacks.WrongBy(0.1)])
def test_samples_of_the_class_that_is_wanted_change_no_step(criterion):
    model, x = net(), images(6)
    y = torch.tensor([0, 1, 1, 1, 1, 1])
    options = {"attack": "pgd", "epochs": 4, "targets": 1, "criterion": criterion}
    both, alone = (
        universal(model, data, fa.L2(0.5, box=WIDE), **options) for data in ((x, y), (x[:1], y[:1]))
    )
    torch.testing.assert_close(both.parameters, alone.parameters)
    assert both.parameters.norm() == pytest.approx(0.5)


DIGITS = fa.data.load("digits", "test", limit=20)
NEXT, SECOND = ({"targets": (DIGITS.y + k) % 10} for k in (1, 2))


@pytest.mark.parametrize(
    ("first", "changed"),
    [
        ({}, {"criterion": fa.attacks.WrongBy(0.5)}),
        ({}, {"targets": 3}),
        ({"targets": 2}, {"targets": 3}),
        (NEXT, SECOND),
        (NEXT, {}),
        (NEXT, {"targets": 3}),
    ],
)
def test_another_question_is_another_run(first, changed, tmp_path):
    model = fa.models.create("softmax", shape=(1, 8, 8), classes=10)
    run = partial(universal, model, DIGITS, fa.Linf(0.1), epochs=1, run_dir=tmp_path)
    same(run(**first), run(**first, resume=True))
    with pytest.raises(InputError, match="another"):
        run(**changed, resume=True)

"""One perturbation for a data set: closed forms, attacks on one sample; judged by its question."""

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

import fastadv as fa
from fastadv.attacks.core.criterion import WRONG
from fastadv.train import UniversalResult
from tests.processes import Refused, go, tell
from tests.refusals import refuses
from tests.train.processes.worker import Doubled

universal = fa.attacks.universal
WIDE = (-9.0, 9.0)


def net(classes=3, width=16, seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        layers = nn.Flatten(), nn.Linear(36, width), nn.Tanh(), nn.Linear(width, classes)
        return nn.Sequential(*layers).eval()


def images(count=40, seed=0):
    return torch.rand(count, 1, 6, 6, generator=torch.Generator().manual_seed(seed))


def labeled(model, x):
    return x, model(x).detach().argmax(1)


def margin(logits, y, targets=None):
    return logits.scatter(1, y[:, None], -torch.inf).amax(1) - logits.gather(1, y[:, None]).squeeze(1)


def linear(weight):
    model = nn.Sequential(nn.Flatten(), nn.Linear(weight.numel(), 2, bias=False))
    with torch.no_grad():
        model[1].weight.copy_(torch.stack([-weight.flatten(), weight.flatten()]) / 2)
    return model


def same(first, second):
    assert torch.equal(first.parameters, second.parameters)
    for name in ("losses", "clean_accuracy", "robust_accuracy", "forwards", "backwards", "flags"):
        assert getattr(first, name) == getattr(second, name), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "epochs", "scale", "seed"),
    [(fa.Linf, 12, 4, 6), (fa.L2, 12, 20, 0)],
)
def test_of_one_sample_it_is_the_one_of_apgd(make, epochs, scale, seed):
    """From the same start with the same steps, of which one is halved as no loss has risen."""
    model, x = net(width=8, seed=seed), torch.zeros(1, 1, 6, 6)
    with torch.no_grad():
        model[1].weight.mul_(scale)
    y, threat = model(x).argmax(1), make(2.0, box=WIDE)
    out = universal(model, (x, y), threat, epochs=epochs)
    alone = fa.attacks.apgd(model, x, y, threat, steps=epochs - 1, loss="margin", starts=x, stop_early=False)
    torch.testing.assert_close(out.parameters, alone.x_adv[0], rtol=0, atol=0)
    assert max(out.losses) == alone.loss.item()


@pytest.mark.slow
def test_of_one_sample_it_is_the_one_of_shrinking_steps():
    model, x = net(), images(1)
    y, threat = model(x).argmax(1), fa.L2(0.5, box=WIDE)
    out = universal(model, (x, y), threat, attack="pgd", epochs=10)
    points, best = x, (-math.inf, x)
    for k in range(10):
        best = max(best, (margin(model(points), y).item(), points), key=lambda candidate: candidate[0])
        options = {"steps": 1, "step_size": 0.8 * 0.5 * (1 - k / 10), "loss": "margin", "start": points}
        points = fa.attacks.last_iterate(model, x, y, threat, **options)
    torch.testing.assert_close(out.parameters, (best[1] - x)[0], rtol=0, atol=1e-6)
    assert max(out.losses) == pytest.approx(best[0], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "make", "order"), [("apgd", fa.Linf, 1), ("pgd", fa.L2, 2)])
def test_of_a_linear_model_it_is_the_optimum(attack, make, order):
    weight = torch.linspace(-1, 1, 36).view(1, 6, 6) + 0.01
    model, x = linear(weight), images() * 0.2 + 0.4
    x = x[(x * weight).sum((1, 2, 3)) > 0]
    y = torch.ones(len(x), dtype=torch.long)
    out = universal(model, (x, y), make(0.1), attack=attack, epochs=4, batch_size=16)
    best = -weight.sign() if order == 1 else -weight / weight.norm()
    torch.testing.assert_close(out.parameters, 0.1 * best, rtol=1e-5, atol=1e-6)
    broken = (x * weight).sum((1, 2, 3)) < 0.1 * weight.norm(order)
    assert out.clean_accuracy == 1
    assert out.success_rate == pytest.approx(broken.double().mean().item())


INSIDE = {
    "radius 0": (fa.Linf(0.0), 1),
    "ball": (fa.Linf(0.3, box=(-1, 2)), 3),
    "patch": (fa.Patch((3, 2), place=(1, 2)), 1),
    "any place": (fa.Patch((3, 3), place="any"), 1),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", INSIDE)
def test_what_holds_in_every_threat(kind):
    """The seed alone decides, nothing else changes, every pass is counted, and the threat holds."""
    (threat, eot), x, seen = INSIDE[kind], images(), []
    model, drawn, data = net().train(), torch.get_rng_state(), labeled(net(), x)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    hook = model.register_forward_hook(lambda module, _, out: seen.append(len(out)))
    find = partial(universal, fa.engine.Plain(model, eot), data, threat, epochs=4, batch_size=16)
    out = find()
    assert (out.forwards, out.backwards) == (sum(seen), 4 * len(x) * eot)
    hook.remove()
    same(find(), out)
    if kind in ("ball", "any place"):  # the corners of a patch of few pixels are soon found
        assert not torch.equal(find(seed=1).parameters, out.parameters)
    assert torch.equal(torch.get_rng_state(), drawn)
    assert model.training
    torch.testing.assert_close(dict(model.state_dict()), before, rtol=0, atol=0)
    moved, ids = out.apply(x), torch.tensor([7, 3])
    assert torch.equal(out.apply(x[ids], ids), moved[ids])
    right = model.eval()(moved).argmax(1) == data[1]
    assert out.robust_accuracy == right.double().mean().item()
    assert (out.robust_accuracy == 1) == torch.equal(moved, x) == (kind == "radius 0")
    if "any" in kind:
        changed = [image != one for image, one in zip(moved, x, strict=True)]
        assert len({tuple(pixels.nonzero().amin(0).tolist()) for pixels in changed}) > 5
    elif kind == "patch":
        place = torch.zeros(6, 6, dtype=torch.bool)
        place[1:4, 2:4] = True
        assert torch.equal(moved[..., place], out.parameters.view(1, 1, 6).expand(len(x), 1, 6))
        assert torch.equal(moved[..., ~place], x[..., ~place])
    else:
        assert threat.contains(moved, x).all()


@pytest.mark.slow
def test_it_goes_on_after_most_samples_are_wrong():
    x = torch.cat([torch.full((9, 1, 6, 6), 0.05), torch.full((1, 1, 6, 6), 0.29)])
    data, threat = (x, torch.ones(10).long()), fa.Linf(0.3, WIDE)
    black = linear(torch.ones(1, 6, 6))
    results = [universal(black, data, threat, attack="pgd", epochs=epochs) for epochs in (2, 6)]
    assert [out.robust_accuracy for out in results] == pytest.approx([0.1, 0.0])


class Spoiled(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return torch.where((x[:, :, :1, :1] > 0.9).flatten(1), torch.nan, self.inner(x))


@pytest.mark.slow
def test_a_sample_without_a_gradient_spoils_no_other():
    x = images() * 0.5
    model = Spoiled(net())
    y = net()(x).argmax(1)
    bad = x[:1].clone()
    bad[:, :, 0, 0] = 1.0
    data = torch.cat([x, bad]), torch.cat([y, y[:1]])
    out = universal(model, data, fa.L2(0.2), epochs=4, batch_size=64)
    alone = universal(model, (x, y), fa.L2(0.2), epochs=4, batch_size=64)
    torch.testing.assert_close(out.parameters, alone.parameters, rtol=0, atol=1e-5)
    assert any("4 of 164 gradients were not finite" in flag for flag in out.flags)
    assert out.clean_accuracy == pytest.approx(40 / 41)


@pytest.mark.slow
def test_other_outputs_by_a_criterion():
    model, x = net(4), images()
    held_out, threat = images(seed=1), fa.Linf(0.3)
    y = (model(x) > 0).long()
    signs = universal(model, (x, y), threat, criterion=fa.attacks.Signs(2), epochs=4)
    wrong = ((model(signs.apply(x)) > 0).long() != y).sum(1) >= 2
    assert signs.robust_accuracy == pytest.approx(1 - wrong.double().mean().item())
    assert signs.success_rate > 0
    away = universal(model, x, threat, criterion=fa.attacks.Beyond(0.2), epochs=4)
    moved = (model(away.apply(x)) - model(x)).norm(dim=1) > 0.2
    assert away.clean_accuracy == 1
    assert away.success_rate == pytest.approx(moved.double().mean().item())
    table = fa.evaluate(model, held_out, {"universal": away}, criterion=fa.attacks.Beyond(0.2))
    assert table["universal"].success_rate > 0.5
    one = nn.Sequential(net(1), nn.Flatten(0))
    logit = universal(one, (x, (one(x) > 0).long()), threat, criterion=fa.attacks.Signs(), epochs=4)
    assert logit.success_rate > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"threat": fa.L0(3)}, "threat: expected one of Linf, L2"),
        ({"threat": fa.Linf(math.inf)}, "radius: expected a finite"),
        ({"threat": fa.Linf(torch.ones(40))}, "threat: expected one radius"),
        ({"attack": "fgsm"}, "attack: expected one of apgd, pgd"),
        ({"epochs": 0}, "epochs: expected an integer >= 1"),
        ({"targets": 7}, "targets: expected classes 0 to 2"),
        ({"targets": torch.zeros(40).long()}, "targets: expected an integer"),
        ({"targets": 1, "criterion": fa.attacks.Signs()}, r"targets: expected None for Signs"),
        ({"data": (images() * 2, torch.zeros(40).long())}, "rescale them"),
        ({"data": (images(), torch.full((40,), 5))}, "y: expected classes 0 to 2"),
    ],
)
def test_wrong_arguments(arguments, message):
    model = net()
    settings = {"data": labeled(model, images()), "threat": fa.Linf(0.1)} | arguments
    refuses(message, universal, model, **settings)


@pytest.mark.slow
def test_a_patch_at_any_place_is_elsewhere_in_every_epoch():
    seen = []

    class Watched(nn.Module):
        def forward(self, x):
            if x.amax() > 0 and len(x) == 8:
                seen.append(tuple(sorted((x > 0).flatten(1).nonzero()[:, 1].tolist())))
            return x.flatten(1)[:, :2] * 0 + x.mean((1, 2, 3))[:, None] * x.new_tensor([1.0, -1.0])

    black = torch.zeros(8, 1, 6, 6)
    universal(Watched(), (black, torch.ones(8).long()), fa.Patch((2, 2), place="any"), epochs=5)
    assert len({*seen}) >= 5


@pytest.mark.slow
def test_any_map_of_parameters():
    model, x = net(), images()
    data = labeled(model, x)

    def brighter(x, t):
        return (x + t.view(-1, 1, 1, 1)).clamp(0, 1)

    threat = fa.Through(brighter, fa.Linf(0.3, box=(-1, 1)), still=lambda x: x.new_zeros(len(x), 1))
    out = universal(model, data, threat, epochs=6)
    shifts = torch.linspace(-0.3, 0.3, 61)
    best = max(margin(model((x + shift).clamp(0, 1)), data[1]).mean().item() for shift in shifts)
    assert max(out.losses) == pytest.approx(best, abs=0.05)
    contrast = fa.Through(
        lambda x, t: (x * t.view(-1, 1, 1, 1)).clamp(0, 1),
        fa.Linf(0.5, box=(0, 9)),
        lambda x: x.new_ones(len(x), 1),
    )
    assert 0.5 <= universal(model, data, contrast, epochs=3).parameters.item() <= 1.5
    replaced = fa.Through(lambda x, t: t, fa.Linf(0.1), still=lambda x: x)
    refuses(r"whose still\(x\) differ", universal, model, data, replaced)


def cases():
    """Of 33 samples the last one is alone in its batch: one of two processes has none there."""
    model, x = net().double(), images(33)
    data = x, model(x.double()).argmax(1)
    doubled = Doubled(model)
    options = {"epochs": 4, "batch_size": 16}
    return {
        "ball": partial(universal, doubled, data, fa.L2(0.5), **options),
        "patch": partial(universal, doubled, data, fa.Patch((3, 3), place="any"), attack="pgd", **options),
        "wrong": partial(universal, doubled, (x, data[1] + 3), fa.L2(0.5), **options),
    }


def in_processes(folder, rank):
    calls = cases()
    torch.save([calls[name]() for name in ("ball", "patch")], folder / f"found-{rank}.pt")
    tell(folder, rank, {"wrong": calls["wrong"], "alike": partial(calls["ball"], seed=rank)})


@pytest.mark.slow
def test_several_processes_find_what_one_finds(tmp_path):
    go(__name__, "in_processes", tmp_path, 2)
    first, second = (torch.load(tmp_path / f"found-{rank}.pt", weights_only=False) for rank in (0, 1))
    alone = [cases()[name]() for name in ("ball", "patch")]
    for mine, other, one in zip(first, second, alone, strict=True):
        same(mine, other)
        torch.testing.assert_close(mine.parameters, one.parameters, rtol=0, atol=1e-6)
        assert mine.losses == pytest.approx(one.losses, abs=1e-6)
        for name in ("robust_accuracy", "forwards", "backwards"):
            assert getattr(mine, name) == getattr(one, name)
    refused = Refused(tmp_path)
    refused.alike("alike", "seed")
    assert "y: expected classes 0 to 2" in refused.said[0]["wrong"]


@pytest.mark.parametrize("shape", [(2, 3, 8, 8), (2, 64)])
def test_a_perturbation_of_another_shape_is_not_spread(shape):
    result = UniversalResult(torch.zeros(1, 8, 8), fa.Linf(0.1))
    refuses(r"like the perturbation \(1, 8, 8\)", result.apply, torch.rand(shape))


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "batch_size"), [("apgd", 16), ("pgd", 33)])
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
    assert out.losses == pytest.approx([torch.cat([m for _, m in epoch]).mean().item() for epoch in epochs])
    assert out.flags == ()
    soft = 0.1 * looks[0][1].abs().mean()
    scores = [
        [m / (soft + m.abs()) for k, (_, m) in enumerate(epoch) if number or k]  # the first step has no score
        for number, epoch in enumerate(epochs)
    ]
    best = max(range(6), key=lambda number: torch.cat(scores[number]).mean())
    assert torch.equal(out.parameters, epochs[best][-1][0])


@pytest.mark.slow
def test_a_further_ascent_begins_at_the_point_that_seed_and_epoch_draw():
    looks, (x, y) = [], labeled(net(), images(4))

    def add(images, t):
        looks.extend(t[:1].detach() for _ in range(t.requires_grad))
        return images + t

    threat = fa.Through(add, fa.Linf(0.5, box=WIDE), torch.zeros_like, box=WIDE)
    universal(net(), (x, y), threat, epochs=75, seed=3)
    key, origin = fa.rng.derive(3, "universal"), torch.zeros(1, 1, 6, 6)
    for epoch in (25, 50):
        start = threat.ball.random_start(origin, seed=key, ids=torch.tensor([epoch]))
        assert torch.equal(looks[epoch], start)
    assert not looks[0].any()


MODEL, THREAT = net(), fa.Linf(0.15)
DATA = X, Y = labeled(MODEL, images())
ASKED = {"a class": {"targets": 1}, "by a lead": {"targets": 1, "criterion": fa.attacks.WrongBy(0.05)}}


def reached(out, wanted, lead, x=X, y=Y):
    logits, wanted = MODEL(out.apply(x)).detach(), torch.full_like(y, wanted)
    others = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
    return (logits.gather(1, wanted[:, None])[:, 0] - others > lead) & (wanted != y)


def judged(attack, data=DATA, **options):
    return fa.evaluate(MODEL, data, {"universal": attack}, indicators=False, **options)["universal"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ASKED)
def test_a_table_and_a_file_ask_the_question_of_the_result(kind, tmp_path):
    """Samples that are of the wanted class change no step."""
    out, lead = universal(MODEL, DATA, THREAT, epochs=3, **ASKED[kind]), 0.05 if "lead" in kind else 0.0
    row = judged(out, batch_size=7)
    assert torch.equal(row.broken, reached(out, 1, lead))
    assert 0 < row.robust_accuracy == out.robust_accuracy < 1
    assert row.asked.startswith("the target 1")
    assert torch.equal(judged(out, limit=15).broken, row.broken[:15])
    assert torch.equal(out(MODEL, X[:9], Y[:9]).success, row.broken[:9])
    data = labeled(MODEL, images(40, seed=1))
    for attack in (partial(out, targets=2), replace(out, targets=2)):
        other = judged(attack, data, batch_size=16)
        assert torch.equal(other.broken, reached(out, 2, lead, *data))
        assert other.asked.startswith("the target 2")
    free = judged(partial(out, targets=None), data)
    assert free.asked == ("" if kind == "a class" else "WrongBy(lead=0.05)")
    torch.save(out, tmp_path / "out.pt")
    again = torch.load(tmp_path / "out.pt", weights_only=True)
    same(again, out)
    assert (again.targets, again.criterion) == (1, ASKED[kind].get("criterion", WRONG))
    assert torch.equal(judged(again).broken, row.broken)
    y, find = torch.tensor([0, 1, 1, 1, 1, 1]), partial(universal, MODEL, threat=fa.L2(0.5, box=WIDE))
    both, alone = (find((X[:n], y[:n]), attack="pgd", epochs=4, **ASKED[kind]) for n in (6, 1))
    torch.testing.assert_close(both.parameters, alone.parameters)
    assert both.parameters.norm() == pytest.approx(0.5)

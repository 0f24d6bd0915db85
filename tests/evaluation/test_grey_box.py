"""The row "grey box": what an attack makes of the net inside, judged on the whole system."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.evaluation import Table, evaluate
from fastadv.measure.attacks import MISREAD
from fastadv.measure.outcome import ELSEWHERE
from tests.attacks.nets import images, labels, mlp
from tests.defenses import Defended, Quantize
from tests.evaluation.nets import assert_same
from tests.refusals import refuses

X = images(48, dtype=torch.float32)
NET = mlp(4, seed=5, dtype=torch.float32)
SYSTEM = Defended(NET, before=Quantize(6)).eval()
SET = ImageSet(X, labels(SYSTEM, X), 4, "noise")
BALL = fa.Linf(0.08)
PGD = partial(fa.attacks.pgd, steps=5)


def measured(attacks: Any = None, **options: Any) -> Table:
    options = {"threat": BALL, "grey_box": NET, "indicators": False, **options}
    return evaluate(SYSTEM, SET, {"adaptive": PGD} if attacks is None else attacks, **options)


@pytest.mark.parametrize("batch_size", [7, 48])
def test_it_judges_the_last_points_of_the_first_attack_on_the_net(batch_size: int) -> None:
    table = measured({"adaptive": partial(PGD, seed=3), "fgsm": "fgsm"}, batch_size=batch_size)
    row = table["grey box"]
    x_adv = PGD(NET, X, SET.y, BALL, seed=3, stop_early=False).x_adv
    assert [row.name for row in table.rows] == ["adaptive", "fgsm", "grey box"]
    assert torch.equal(row.broken, labels(SYSTEM, x_adv) != SET.y)
    assert 0 < int(row.broken.sum()) < len(X)
    assert (repr(row.threat), row.attack, row.forwards, row.backwards) == (repr(BALL), "grey_box", 0, 0)
    assert row.flags == (ELSEWHERE,)
    assert f"grey box: {ELSEWHERE}" in str(table)
    assert json.loads(json.dumps(table.to_dict()))["attacks"][2]["label"] == "grey box"
    assert torch.equal(table.held, ~torch.stack([row.broken for row in table.rows]).any(0))


OWN = {
    "finished": (lambda model, x, y, ids: FINISHED[ids], True),
    "of the net": (lambda model, x, y: PGD(NET, x, y, BALL), True),
    "of the system": (lambda model, x, y: PGD(model, x, y, BALL), False),
    "asks the system": (lambda model, x, y: x + 0.01 * model(x).sign().mean(), False),
    "changes nothing": (lambda model, x, y: x, False),
}
FINISHED = PGD(NET, X, SET.y, BALL).x_adv


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("name", OWN)
def test_finished_images_are_told(name: str, freeze: bool) -> None:
    attack, told = OWN[name]
    row = measured({name: attack}, threat=None, grey_box=None, freeze=freeze).rows[0]
    assert (ELSEWHERE in row.flags) == told


@pytest.mark.slow
def test_it_is_no_search_of_the_system() -> None:
    """So it stands for no Square, and takes none of the signs away."""
    attacks, mended = {"pgd": partial(PGD, steps=40)}, fa.models.bpda(SYSTEM, {"before": "identity"})
    for model in (SYSTEM, mended, NET):
        alone, beside = (
            evaluate(model, (X, labels(model, X)), attacks, threat=BALL, grey_box=net) for net in (None, NET)
        )
        assert alone.indicators is not None
        assert beside.indicators is not None
        assert alone.indicators.flagged == beside.indicators.flagged
        assert alone.indicators.unseen == beside.indicators.unseen


def test_it_resumes_and_another_net_is_refused(tmp_path: Path) -> None:
    options = {"run_dir": tmp_path, "batch_size": 20, "keep_samples": True}
    first = measured(**options)
    assert_same(measured(**options, resume=True), first)
    refuses("another attacks", measured, **options, resume=True, grey_box=mlp(4, seed=1, dtype=torch.float32))


def test_the_goal_of_the_first_attack_is_its_goal() -> None:
    strict = fa.attacks.WrongBy(1.0)
    row = measured({"pgd": partial(PGD, criterion=strict)})["grey box"]
    logits = SYSTEM(PGD(NET, X, SET.y, BALL, criterion=strict, stop_early=False).x_adv)
    assert torch.equal(row.broken, strict.met(logits, SET.y, None))
    moved = measured({"pgd": PGD}, threat=fa.Moved(1, 10))["grey box"]
    assert moved.within == "Moved 1 px, 10°"
    assert moved.broken.any()
    assert MISREAD in measured(grey_box=mlp(4, seed=1, dtype=torch.float32))["grey box"].flags


@pytest.mark.slow
def test_draws_and_targets_are_those_of_the_samples() -> None:
    noise = partial(fa.attacks.uniform_noise, threat=fa.Linf(0.5), levels=20, repetitions=3)
    targets = (SET.y + 1) % 4
    row = measured({"noise": noise}, threat=None, batch_size=7)["grey box"]
    assert torch.equal(row.broken, labels(SYSTEM, noise(NET, X, SET.y).x_adv) != SET.y)
    own = partial(lambda model, x, y, threat: x, threat=BALL)  # passed over
    radii = BALL.with_radius(torch.linspace(0, 0.3, len(X)))
    goal: dict[str, Any] = {"targets": targets, "threat": radii}
    row = measured({"own": own, "pgd": partial(PGD, **goal)}, threat=None, batch_size=7)["grey box"]
    reached = labels(SYSTEM, PGD(NET, X, SET.y, **goal, stop_early=False).x_adv)
    assert torch.equal(row.broken, reached == targets)


WRONG = {
    "depend on x .*on the net of grey_box=": {"grey_box": lambda x: NET(x).detach()},
    "none named 'grey box'": {"attacks": {"grey box": PGD}},
    "an attack of fastadv.attacks with a threat": {"attacks": OWN["changes nothing"][0], "threat": None},
    "a module or a function of x, got str": {"grey_box": "net"},
    "y: expected classes 0 to 1.*on the net of grey_box=": {"grey_box": mlp(2, dtype=torch.float32)},
}


@pytest.mark.parametrize("says", WRONG)
def test_what_cannot_be_is_refused(says: str) -> None:
    refuses(says, measured, **WRONG[says])

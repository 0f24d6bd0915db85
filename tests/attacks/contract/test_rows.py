"""What every attack promises of each result, whatever the options."""

from itertools import combinations, product

import pytest
import torch

from fastadv.attacks import Status
from fastadv.attacks.core import samples
from fastadv.losses import loss_value

from ..nets import Case
from .rows import LOST, OPTIONS, ROWS, STEEP, STILL, mask, row
from .unchanged import unchanged


def test_every_two_values_meet_in_a_row() -> None:
    for (i, one), (k, other) in combinations(enumerate(OPTIONS.values()), 2):
        met = {(line[i], line[k]) for line in ROWS}
        assert met == set(product(map(str, range(len(one))), map(str, range(len(other)))))


@pytest.mark.usefixtures("search_copy", "asked_alone")
@pytest.mark.filterwarnings("ignore:.* in training mode and has gradients")
def test_a_result_keeps_every_promise(case: Case, norm: str, number: int, monkeypatch) -> None:
    asked = row(number)
    threat, x, y = asked.threat(case, norm), asked.x.clone(), asked.y
    given, criterion = asked.arguments(case, threat), asked.criterion_for(case)
    if asked.seldom:
        monkeypatch.setattr(samples, "may_leave", lambda look, device: (look + 1) & look == 0)
    x.requires_grad_(not asked.targets)
    asked.seen.clear()
    asked.passes.clear()
    with unchanged(asked.model, x, y):
        out = case(asked.searched, x, y, threat, **given)
    passes, seen, x = dict(asked.passes), list(asked.seen), x.detach()
    # a success is what the model says, in its own precision, of points in ball and box
    targets = given.get("targets")
    logits, clean = asked.logits(out.x_adv), asked.logits(x)
    broken, held = out.status == Status.BROKEN, out.status >= Status.HELD
    met, already = (criterion.met(said, y, targets) & said.isfinite().all(1) for said in (logits, clean))
    assert torch.equal(out.status == Status.ALREADY_WRONG, already)
    assert torch.equal(out.success, met)
    assert torch.equal(broken, out.success & ~already)
    assert threat.contains(out.x_adv, x).all()
    assert not [flag for flag in out.flags if flag.startswith("outside")]
    # distances are measured; what is wrong already stays, and what holds does of a minimum-norm attack
    away = threat.distance(out.x_adv, x).float()
    torch.testing.assert_close(out.distance[broken], away[broken])
    assert (away[broken] > 0).all()
    assert out.distance[held].isinf().all()
    assert (out.distance[already] == 0).all()
    unmoved = already | held if case.entry.minimal else already
    assert torch.equal(out.x_adv[unmoved], x[unmoved])
    assert not asked.radii or torch.equal(out.x_adv[STILL], x[STILL])
    if asked.nan:  # which touches no sample but its own
        gradient = case.entry.knowledge == "gradient"
        failed = out.status == Status.FAILED
        assert failed[LOST]
        assert torch.equal(out.x_adv[LOST], x[LOST])
        assert failed[STEEP] or already[STEEP] or broken[STEEP] or norm == "l0" or not gradient
        assert not asked.mask or failed.sum() == 1 + failed[STEEP]
    # all passes are counted, those of a search copy in tests/engine, and are those of the attack's knowledge
    counted = passes.get("forward", 0), passes.get("backward", 0)
    assert asked.frozen or (out.forwards, out.backwards) == counted
    assert (out.backwards == 0) == (case.entry.knowledge != "gradient")
    # nothing is asked beyond the mask, nor of attacks by decisions beyond the box
    if asked.mask:
        for points in seen:
            same = points[:, None, ~mask()] == x.to(points.dtype)[:, ~mask()]
            assert same.all(2).any(1).all()
    if case.entry.knowledge == "decision":
        assert all((points >= asked.box[0]).all() and (points <= asked.box[1]).all() for points in seen)
    # images in half precision are taken in float32, in which the model sees them where it takes that
    pixels, kinds = torch.promote_types(asked.formats[1], torch.float32), {points.dtype for points in seen}
    assert asked.frozen or not asked.model.casts or kinds == {pixels}
    assert (out.x_adv.shape, out.x_adv.dtype) == (x.shape, pixels)
    assert not out.x_adv.requires_grad
    assert not out.loss.requires_grad
    assert out.x_adv.data_ptr() != x.data_ptr()
    assert out.x_adv.isfinite().all()
    if not (asked.criterion or asked.targets):
        loss = given.get("loss", getattr(case.entry.parameters.get("loss"), "default", None))
        name = loss if isinstance(loss, str) and not case.entry.minimal else "margin"
        torch.testing.assert_close(
            out.loss, loss_value(logits, y, name).to(out.loss), rtol=1e-4, atol=1e-4, equal_nan=True
        )
    # a short run may break nothing, but for steps along gradients in a ball that holds many successes
    sure = case.entry.knowledge == "gradient" and not case.entry.minimal and norm != "l1"
    assert out.success[2:].any() or not sure or case.name in ("apgd", "autoattack", "fgsm")

"""One perturbation judged by the question it was made for, whoever asks."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch.utils.data import Subset

import fastadv as fa
from fastadv.attacks.core.criterion import WRONG
from fastadv.errors import InputError
from fastadv.runs.files import load_tensors
from tests.train.test_universal import images, labeled, net, same, universal

pytestmark = pytest.mark.slow
MODEL, THREAT = net(), fa.Linf(0.15)
DATA = X, Y = labeled(MODEL, images())
EACH = (Y + 1 + torch.arange(40) % 2) % 3
ASKED = {"a class": {"targets": 1}, "each": {"targets": EACH}}
LEAD = {"criterion": fa.attacks.WrongBy(0.05)}
ASKED |= {f"{kind} by a lead": asked | LEAD for kind, asked in ASKED.items()}


@pytest.fixture(scope="module")
def found():
    return {kind: universal(MODEL, DATA, THREAT, epochs=3, **asked) for kind, asked in ASKED.items()}


def reached(out, wanted, x=X, y=Y, lead=0.0):
    logits = MODEL(out.apply(x)).detach()
    others = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
    return (logits.gather(1, wanted[:, None])[:, 0] - others > lead) & (wanted != y)


def judged(attack, data=DATA, **options):
    return fa.evaluate(MODEL, data, {"universal": attack}, indicators=False, **options)["universal"]


@pytest.mark.parametrize("kind", ASKED)
def test_a_table_asks_the_question_of_the_result(found, kind):
    out, wanted = found[kind], torch.as_tensor(ASKED[kind]["targets"]).expand(40)
    row = judged(out, batch_size=7)
    assert torch.equal(row.broken, reached(out, wanted, lead=0.05 if "lead" in kind else 0))
    assert 0 < row.robust_accuracy == out.robust_accuracy < 1
    assert row.robust_accuracy > judged(replace(out, targets=None)).robust_accuracy or "class" in kind
    assert "the target" in row.asked
    assert torch.equal(judged(out, limit=15).broken, row.broken[:15])
    assert torch.equal(out(MODEL, X[:9], Y[:9]).success, row.broken[:9])


@pytest.mark.parametrize("kind", ASKED)
def test_a_result_keeps_its_question(found, kind, tmp_path):
    out, asked = found[kind], ASKED[kind]
    torch.save(out, tmp_path / "out.pt")
    run = partial(universal, MODEL, DATA, THREAT, epochs=3, **asked, run_dir=tmp_path / "run")
    for again in (torch.load(tmp_path / "out.pt", weights_only=True), run(), run(resume=True)):
        same(again, out)
        assert torch.equal(torch.as_tensor(again.targets), torch.as_tensor(asked["targets"]))
        assert again.criterion == asked.get("criterion", WRONG)
        assert torch.equal(judged(again).broken, judged(out).broken)
    kept, about = load_tensors(tmp_path / "run" / "parameters.safetensors")
    assert torch.equal(kept["targets"], EACH) if "each" in kind else '"targets": 1' in about["card"]


OTHERS = images(40, seed=1)
OTHER_SETS = {
    "others": labeled(MODEL, OTHERS),
    "more": labeled(MODEL, torch.cat([X, OTHERS])),
    "another order": (X.flip(0), Y.flip(0)),
    "some": Subset(torch.utils.data.TensorDataset(X, Y), range(1, 9)),
    "one changed": (torch.cat([X[:7], OTHERS[7:8], X[8:]]), Y),
}


@pytest.mark.parametrize("kind", OTHER_SETS)
def test_targets_of_each_sample_are_asked_of_these_alone(found, kind):
    data = OTHER_SETS[kind]
    with pytest.raises(InputError, match="targets: expected the samples that the perturbation was made for"):
        judged(found["each"], data)
    assert judged(replace(found["each"], targets=None), data).asked == ""
    assert judged(found["a class"], data).asked == "the target 1"


@pytest.mark.parametrize("kind", ASKED)
def test_other_samples_have_the_targets_they_are_given(found, kind):
    x, y = OTHER_SETS["others"]
    wanted, lead = (y + 2) % 3, 0.05 if "lead" in kind else 0.0
    row = judged(partial(found[kind], targets=wanted), (x, y), batch_size=16)
    assert torch.equal(row.broken, reached(found[kind], wanted, x, y, lead))
    assert row.broken.any()

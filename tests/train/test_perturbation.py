"""One perturbation judged by the question it was made for, whoever asks."""

from functools import partial

import pytest
import torch

import fastadv as fa
from fastadv.attacks.core.criterion import WRONG
from fastadv.runs.files import load_tensors
from tests.train.test_universal import images, labeled, net, same, universal

pytestmark = pytest.mark.slow
MODEL, THREAT = net(), fa.Linf(0.15)
DATA = X, Y = labeled(MODEL, images())
ASKED = {"a class": {"targets": 1}, "by a lead": {"targets": 1, "criterion": fa.attacks.WrongBy(0.05)}}


@pytest.fixture(scope="module")
def results():
    return {kind: universal(MODEL, DATA, THREAT, epochs=3, **asked) for kind, asked in ASKED.items()}


def reached(out, wanted, lead, x=X, y=Y):
    logits, wanted = MODEL(out.apply(x)).detach(), torch.full_like(y, wanted)
    others = logits.scatter(1, wanted[:, None], -torch.inf).amax(1)
    return (logits.gather(1, wanted[:, None])[:, 0] - others > lead) & (wanted != y)


def judged(attack, data=DATA, **options):
    return fa.evaluate(MODEL, data, {"universal": attack}, indicators=False, **options)["universal"]


@pytest.mark.parametrize("kind", ASKED)
def test_a_table_asks_the_question_of_the_result(results, kind):
    out, lead = results[kind], 0.05 if "lead" in kind else 0.0
    row = judged(out, batch_size=7)
    assert torch.equal(row.broken, reached(out, 1, lead))
    assert 0 < row.robust_accuracy == out.robust_accuracy < 1
    assert row.asked.startswith("the target 1")
    assert torch.equal(judged(out, limit=15).broken, row.broken[:15])
    assert torch.equal(out(MODEL, X[:9], Y[:9]).success, row.broken[:9])
    data = labeled(MODEL, images(40, seed=1))
    for wanted in (1, 2):
        row = judged(partial(out, targets=wanted), data, batch_size=16)
        assert torch.equal(row.broken, reached(out, wanted, lead, *data))
        assert row.asked.startswith(f"the target {wanted}")


@pytest.mark.parametrize("kind", ASKED)
def test_a_result_keeps_its_question(results, kind, tmp_path):
    out, asked = results[kind], ASKED[kind]
    torch.save(out, tmp_path / "out.pt")
    run = partial(universal, MODEL, DATA, THREAT, epochs=3, **asked, run_dir=tmp_path / "run")
    for again in (torch.load(tmp_path / "out.pt", weights_only=True), run(), run(resume=True)):
        same(again, out)
        assert (again.targets, again.criterion) == (1, asked.get("criterion", WRONG))
        assert torch.equal(judged(again).broken, judged(out).broken)
    assert '"targets": 1' in load_tensors(tmp_path / "run" / "parameters.safetensors")[1]["card"]

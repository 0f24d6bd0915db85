"""One contract over all subjects on either device, and what fastadv is compared with does the same thing."""

import json
import re
from functools import partial
from itertools import product
from types import SimpleNamespace

import pytest
import torch

import fastadv as fa
from bench import nets
from bench.clock import Ceilings
from bench.records import ON_CPU, ON_GPU, RESULTS, recorded
from bench.session import Session, cases_of
from bench.subjects import abs as abs_subject
from bench.subjects import attacks, construct, corruptions, large, op_sizes, training
from fastadv.models.abs.decoder import DecoderShape
from fastadv.ops.registration.library import CARDS
from runs import OnCPU, ends, known, ran, session

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, in the interpreter
SHARES = {"share_of_copy", *(f"share_of_{form}_product" for form in ("fp32", "tf32", "bf16"))}
# parts of a row's name that are others in a test: sizes and weights
OTHERS = ((r"[\d.]+(e-\d+)?", "N"), ("published vanilla CNN, MNIST test", "untrained CNN, random images"))


@pytest.fixture
def small(monkeypatch):
    monkeypatch.setattr(op_sizes, "STEP_SHAPES", ((2, 3, 4, 4), (1, 8)))
    monkeypatch.setattr(op_sizes, "SHAPE", (2, 3, 4, 4))
    monkeypatch.setattr(construct, "ON_CPU", {"images": 10, "steps": 5, "width": 4})
    monkeypatch.setattr(abs_subject, "QUICK", abs_subject.QUICK | {"batch_size": 10})
    monkeypatch.setattr(abs_subject, "DecoderShape", partial(DecoderShape, (4, 4, 1), (7, 4), (1, 4)))
    for name, value in {"BATCHES": (2,), "STEPS": 2, "FEW": 1}.items():
        monkeypatch.setattr(abs_subject, name, value)
    for name, value in {"CLASSES": (2, 3), "STREAMED": (8, 16), "SIDE": 32, "BATCH": 2, "PRIOR": 20}.items():
        monkeypatch.setattr(large, name, value)
    monkeypatch.setattr(large, "MANY", 4)
    monkeypatch.setattr(large, "grown", lambda call: [call()] and large.MIB)
    chosen = ("Standard", "PGDTraining", "FreeTraining")
    monkeypatch.setattr(training, "RECIPES", {name: training.RECIPES[name] for name in chosen})
    monkeypatch.setattr(large, "measured", lambda case, size: large.measure(case, str(size)))
    monkeypatch.setattr(large, "milliseconds", {"import torch": 2.0, "import fastadv": 3.0}.get)
    monkeypatch.setattr(nets, "resnet50", partial(nets.resnet50, tiny=True, side=32))
    monkeypatch.setattr(nets, "resnet18", lambda **tiny: nets.small_net(4))
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)


def alike(name):
    for pattern, word in OTHERS:
        name = re.sub(pattern, word, name)
    return name


def timed(rows):
    """The rows of measurements, which hold for every stage."""
    timings = [row for row in rows if "p50_ms" in row]
    assert [row for row in rows if row.get("status") == "failed" or "error" in row] == []
    assert "done" in ends(rows).values()
    json.dumps(rows)
    assert all(0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] for row in timings)
    assert all({"what", "provider"} <= row.keys() for row in timings)
    assert {key for row in timings for key in row if key.endswith(("copy", "product"))} <= SHARES
    assert all(0 <= row["accuracy"] <= 1 for row in rows if "accuracy" in row)
    return timings


CEILINGS = Ceilings(1, 100.0, {"fp32": 2.0, "tf32": 4.0, "bf16": 8.0})


@pytest.fixture
def clocked(monkeypatch, small):
    """Eager code takes 8 ms, the passes alone 2 (in bf16 1) and all else 4; a pass is a million flops."""
    monkeypatch.setattr(attacks, "forward_flops", lambda net, x: 10**6)
    times = known(eager=8.0, reference=8.0, plain_loop=8.0)
    times.milliseconds |= {"passes alone, fp32": 2.0, "passes alone, bf16": 1.0}
    times.milliseconds |= {"fp32": 2.0, "bf16": 2.0}
    times.__dict__["ceilings"] = CEILINGS
    monkeypatch.setattr("bench.subjects.loop.apart", lambda *clocked: 4.0)
    return times


# cases that run of stages whose other cases are alike
ON_GPU_ONE = {
    "loop": "PGD-40 MLP 784-256-10, 1024", "correctness": "op linf_step", "limits": "MLP", "ops": "linf_step",
    "training": "standard", "certify": "float32", "abs": "inference 1", "construct": "D_R", "attacks": "MLP",
}  # fmt: skip
ON_CPU_ONE = {
    "attacks": "MLP",
    "training": "small_cnn",
    "certify": "float32",
    "ops": "step",
    "construct": "D_R",
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", ON_GPU)
def test_the_cases_of_make_gpu_are_done_and_their_figures_follow_from_the_times(clocked, stage):
    rows = ran(clocked, stage, ON_GPU_ONE.get(stage, ""))
    timings = timed(rows)
    whys = {row["why"] for row in rows if row.get("status") == "skipped"}
    assert whys <= {"widths are tuned on a GPU alone"}
    assert bool(timings) is (stage != "correctness")
    for row in timings:
        taken = row["p50_ms"]
        assert stage == "training" or row["peak_mib"] == 2.0  # a second epoch is timed by the run itself
        for column in {"times_eager", "times_plain", "times_reference"} & row.keys():
            assert row[column] == 8.0 / taken
        if "share_of_ceiling" in row:
            # passes alone are named otherwise to construct, and take 2
            fast = "bf16" in row["provider"] and stage != "construct"
            assert row["share_of_ceiling"] == (1.0 if fast else 2.0) / taken
        if "share_of_copy" in row:
            assert row["share_of_copy"] == pytest.approx(row["gb_per_s"] / 100, abs=6e-4)
        if {"ms_per_image", "images"} <= row.keys():
            assert row["ms_per_image"] == pytest.approx(taken / row["images"], rel=1e-3)


@pytest.mark.slow
@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("stage", ON_CPU)
def test_every_case_of_make_bench_has_the_rows_that_are_stored(stage):
    """The names of rows are what a history is compared by."""
    threads = torch.get_num_threads()
    rows = ran(known(OnCPU, eager=8.0, fp32=1.0, bf16=2.0), stage, ON_CPU_ONE.get(stage, ""))
    timed(rows)
    if stage == "construct":
        shares = [row for row in rows if "share_of_ceiling" in row]
        assert [row["share_of_ceiling"] for row in shares] == [0.125, 0.25, 0.5]
        assert all(row["objective_after"] < row["objective_before"] for row in shares[1:])
    if stage == "large":
        assert [row["times_torch"] for row in rows if "times_torch" in row] == [1.5]
    torch.set_num_threads(threads)
    stored = {(alike(row["what"]), row["provider"]) for row in recorded(RESULTS / "cpu.jsonl")}
    names = {(alike(row["what"]), row["provider"]) for row in rows if "provider" in row}
    assert names
    assert names <= stored, f"run: python bench/run.py --only {stage}"


@pytest.mark.slow
def test_corruptions_are_timed_beside_another_package_image_by_image(monkeypatch):
    calls = []
    package = SimpleNamespace(corrupt=lambda image, **how: calls.append((image.shape, *how.values())))
    monkeypatch.setattr(corruptions, "find_spec", lambda name: True)
    monkeypatch.setattr(corruptions, "import_module", lambda name: package)
    monkeypatch.setattr(corruptions, "named", lambda names: ("fog", "contrast"))
    rows = ran(known(OnCPU, fastadv=2.0), "corruptions")
    ours = [row for row in timed(rows) if row["provider"] == "fastadv"]
    assert [(row["images_per_s"], row["times_oracle"]) for row in ours] == [(1000.0, 2.0)] * 2 * 2 * 3
    asked = product((224, 32), ("fog", "contrast"), (1, 3, 5), range(2))
    assert calls == [((side, side, 3), level, name) for side, name, level, _ in asked]


@pytest.mark.parametrize("kind", [Session, OnCPU], ids=["gpu", "cpu"])
def test_every_op_and_attack_has_a_case(kind):
    clocked = session(kind)
    measured = {problem.op for problem in op_sizes.problems(clocked)}
    if clocked.on_cpu:
        assert measured | set(op_sizes.IN_ABS) == CARDS.keys()
        return
    # what has no kernel for a GPU is a reference there, and not measured
    unmeasured = {name for name, card in CARDS.items() if card.triton} - measured
    assert not unmeasured, "give each arguments in bench/subjects/op_sizes.py"
    checked = {case.name for case in cases_of("correctness", clocked)}
    assert {f"op {name}" for name in CARDS} <= checked
    assert {f"attack {name}" for name in fa.attacks.ATTACKS} <= checked


class TestEager:
    """What fastadv is compared with computes the same thing."""

    @pytest.mark.slow
    def test_the_resnets_are_torchvisions(self):
        from tests.vision import models

        for expansion, block in ((1, models.resnet.BasicBlock), (4, models.resnet.Bottleneck)):
            theirs = models.ResNet(block, [1, 1, 1, 2])
            ours = nets.ResNet(expansion, (1, 1, 1, 2), 1000, small=False, width=64)
            theirs.load_state_dict(ours.state_dict())
            x = torch.rand(1, 3, 64, 64)
            with torch.no_grad():
                torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))

    def test_abs_is_abs(self):
        net = abs_subject.model(session())
        x, prior = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1)), net.bank()
        bias = net.options.beta / 2 * net.prior_latents.square().sum(1)
        losses = abs_subject.inference_by_hand(net, x, prior, prior.square().sum(2), bias)
        torch.testing.assert_close(losses, -net(x), rtol=1e-4, atol=1e-5)

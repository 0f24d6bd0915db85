"""The figures of `make gpu` from times that are known, and its checks on results that are wrong."""

import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from gpu_runs import session
from torch import Tensor, nn

import bench.gpu.__main__ as gpu
from bench import pgd
from bench.gpu import abs as gpu_abs
from bench.gpu import attacks as gpu_attacks
from bench.gpu import construct as gpu_construct
from bench.gpu import correctness as gpu_correctness
from bench.gpu import nets as gpu_nets
from bench.gpu import ops as gpu_ops
from bench.gpu import training as gpu_training
from bench.gpu.session import Ceilings, Session, exact_convolutions, repeatable
from fastadv.data.construct import CIFAR10_PAPER

MILLISECONDS = {"eager": 8.0, "eager fp32": 8.0, "ideal fp32": 2.0, "ideal bf16": 2.0, "ideal fp16": 1.0}
CEILINGS = Ceilings(100.0, {"fp32": 2.0, "tf32": 4.0, "bf16": 8.0, "fp16": 8.0})


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Session:
    """Eager ways take 8 ms, ideal ones 2 ms (in fp16 1) and all others 4 ms; they run once."""

    def times(self: Session, ways: dict[str, Any], least: int = 5) -> dict[str, list[float]]:
        for way in ways.values():
            way()
        return {name: [MILLISECONDS.get(name, 4.0)] * 3 for name in ways}

    monkeypatch.setattr(Session, "times", times)
    given = session()
    given.__dict__["ceilings"] = CEILINGS
    return given


class TestRates:
    def test_ceilings(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Session, "timed", lambda self, call: 0.5)
        found = Ceilings.measured(session())
        # 2^14 floats read and written; two operations for each of 64^3 products
        assert found.copy_gb_per_s == pytest.approx(2 * 4 * 2**14 / 0.5e-3 / 1e9)
        assert found.tflops == pytest.approx(
            dict.fromkeys(("fp32", "tf32", "bf16", "fp16"), 2 * 64**3 / 0.5e-3 / 1e12)
        )

    def test_shares(self) -> None:
        assert CEILINGS.share_of_copy(10**8, 2.0) == {"gb_per_s": 50.0, "share": 0.5, "share_of": "copy"}
        assert CEILINGS.share_of_products(1e9, 2.0, "bf16") == {
            "tflop_per_s": 0.5, "share": 0.062, "share_of": "bf16 product",
        }  # fmt: skip

    def test_times_faster(self, timed: Session) -> None:
        found = {name: figures for name, figures, _ in timed.compare({"eager": bool, "ours": bool}, "eager")}
        assert (found["eager"]["times_eager"], found["ours"]["times_eager"]) == (1.0, 2.0)
        assert found["ours"]["turns"] == 3

    def test_an_op(self, timed: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_ops, "gate", lambda session, name: None)
        problem = next(problem for problem in gpu_ops.problems(timed) if problem.op == "linf_step")
        ours, theirs = gpu_ops.measured(timed, problem)
        assert (ours["times_eager"], theirs["times_eager"]) == (2.0, 1.0)

    def test_every_call_of_keep_best_keeps_a_new_best(self) -> None:
        problem = next(problem for problem in gpu_ops.problems(session()) if problem.op == "keep_best_")
        args = problem.make(0)
        best, x_adv = args[0], args[3]
        way = gpu_ops.fastadv("keep_best_", [args])
        for value in (0.25, 0.5):
            x_adv.fill_(value)
            way.call(*args)
            assert best.eq(value).all()

    def test_pgd(self, timed: Session) -> None:
        rows = {row["provider"]: row for row in gpu_attacks.pgd(timed, "MLP 784-256-10")}
        flops = gpu_attacks.step_flops(gpu_attacks.problem(timed, "MLP 784-256-10")) * 2
        assert rows["fastadv bf16"]["tflop_per_s"] == pytest.approx(flops / 4e-3 / 1e12, rel=1e-3)
        assert rows["fastadv fp32"]["times_eager"] == 2.0
        assert [rows[f"fastadv {each}"]["times_ideal_time"] for each in ("fp32", "bf16", "fp16")] == [2, 2, 4]
        given = gpu_attacks.problem(timed, "MLP 784-256-10")
        clean, broken = (
            float(nn.functional.cross_entropy(given.model(x), given.y).detach())
            for x in (given.x, pgd.plain(given))
        )
        assert broken > 1.05 * clean
        assert rows["eager"]["loss"] == pytest.approx(broken, rel=1e-3)

    def test_training(self, timed: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_training, "forward_flops", lambda net, x: 10**6)
        rows = {row["provider"]: row for row in gpu_training.epoch(timed)}
        # seven forwards and input gradients; a forward and two gradients
        assert rows["fastadv bf16"]["tflop_per_s"] == pytest.approx(17 * 8 * 1e6 / 4e-3 / 1e12, rel=1e-3)
        assert rows["fastadv bf16"]["images_per_s"] == 2000.0
        assert (rows["eager fp32"]["times_eager"], rows["fastadv fp32"]["times_eager"]) == (1.0, 2.0)

    def test_construction(self, timed: Session, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_construct, "forward_flops", lambda net, x: 10**6)
        row = gpu_construct.construct(timed, "D_rand", "fastadv fp32")
        assert row["tflop_per_s"] == pytest.approx(2 * 2 * 10 * 1e6 / 4e-3 / 1e12, rel=1e-3)
        assert (row["ms_per_image"], row["seconds"]) == (0.4, 0.004)
        costs = {"eager fp32": 3.0, "fastadv fp32": 2.0, "fastadv bf16": 1.0}
        monkeypatch.setattr(
            gpu_construct, "construct", lambda session, name, provider: {"ms_per_image": costs[provider]}
        )
        assert [row["times_eager"] for row in gpu_construct.compared(timed, "D_R")] == [1.0, 1.5, 3.0]

    def test_inference_of_abs(self, timed: Session) -> None:
        rows = {row["provider"]: row for row in gpu_abs.inference(timed, 2)}
        assert (rows["eager"]["ms_per_image"], rows["fastadv fp32"]["ms_per_image"]) == (4.0, 2.0)
        assert rows["fastadv fp32"]["same_class"] == 1.0


class TestEager:
    def test_the_fooling_rate_is_the_share_that_is_taken_for_the_target(
        self, timed: Session, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gpu_construct, "eager_random_target", lambda net, x, *rest: x)
        monkeypatch.setattr(gpu_construct, "forward_flops", lambda net, x: 1)
        base = gpu_construct.images(timed, 10)
        with torch.no_grad():
            seen = gpu_nets.resnet18(width=4)(base.x.float() / 255).argmax(1)
        row = gpu_construct.construct(timed, "D_rand", "eager fp32")
        assert row["fooling_rate"] == pytest.approx(float((seen == (base.y + 1) % 10).float().mean()))

    def test_training_takes_every_batch_and_step(self, monkeypatch: pytest.MonkeyPatch) -> None:
        data, seen = gpu_training.images(session(), 10), []
        monkeypatch.setattr(gpu_training, "attacked", lambda model, x, y: seen.append(len(x)) or x)
        gpu_training.eager(gpu_nets.small_net(), data, 4, False)
        assert seen == [4, 4, 2]

    def test_an_attack_has_seven_steps(self) -> None:
        net, calls = gpu_nets.small_net(), []
        net.register_forward_hook(lambda *given: calls.append(1))
        gpu_training.attacked(net, torch.rand(2, 3, 32, 32), torch.arange(2))
        assert len(calls) == 7

    def test_robust_images_come_nearer(self) -> None:
        net = gpu_nets.resnet18(width=4)
        x, start = torch.rand(2, 2, 3, 32, 32, generator=torch.Generator().manual_seed(3))
        made = gpu_construct.eager_robust(net, x, start, CIFAR10_PAPER["d_r"], 5)
        net.fc = nn.Identity()
        with torch.no_grad():
            before, after = (torch.linalg.vector_norm(net(z) - net(x), dim=1) for z in (start, made))
        assert (after < before).all()


def entry(change: Any) -> Any:
    """An attack on L2 that returns x, changed by `change(result, model)`."""

    def run(model: nn.Module, x: Tensor, y: Tensor, threat: Any) -> SimpleNamespace:
        with torch.no_grad():
            result = SimpleNamespace(x_adv=x.clone(), success=model(x).argmax(1) != y)
        change(result, model)
        return result

    return SimpleNamespace(run=run, norms=("l2",), minimal=False, quick={}, needs="")


def _move(result: SimpleNamespace, model: nn.Module) -> None:
    result.x_adv[0] = 1 - result.x_adv[0]


def _shake(result: SimpleNamespace, model: nn.Module) -> None:
    result.x_adv[0, 0, 0, 0] = torch.rand(())


def _overrule(result: SimpleNamespace, model: nn.Module) -> None:
    result.success[0] = True


def _train(result: SimpleNamespace, model: nn.Module) -> None:
    with torch.no_grad():
        model.linear.bias[9] += 1e-3


class TestCorrectness:
    def test_a_right_attack_passes(self) -> None:
        (row,) = gpu_correctness.attack(session(), "x", entry(lambda result, model: None))
        assert (row["provider"], row["samples"], row["success"]) == ("l2", 4, 0.0)

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (_move, "1 results lie outside the threat"),
            (_shake, "two runs differ"),
            (_overrule, "1 verdicts are not the model's"),
            (_train, "the model was changed"),
        ],
    )
    def test_a_wrong_attack_is_noticed(self, fault: Any, message: str) -> None:
        with pytest.raises(AssertionError, match=message):
            list(gpu_correctness.attack(session(), "x", entry(fault)))

    def test_an_inexact_op_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(gpu_correctness, "checked", lambda *args: 0.01)
        with pytest.raises(AssertionError, match=r"relative error 0\.01"):
            list(gpu_correctness.op(session(), "project_l2"))

    def test_an_inexact_engine_is_noticed(self, monkeypatch: pytest.MonkeyPatch) -> None:
        wanted = gpu_correctness.gradients
        monkeypatch.setattr(
            gpu_correctness, "gradients", lambda *given: tuple(1.3 * part for part in wanted(*given))
        )
        for precision in ("fp32", "bf16"):
            with pytest.raises(AssertionError, match=r"logits: relative error 0\.2"):
                list(gpu_correctness.engine(session(), precision))

    def test_settings_hold_inside_and_are_restored(self) -> None:
        cudnn = torch.backends.cudnn
        before = cudnn.allow_tf32, cudnn.deterministic, torch.are_deterministic_algorithms_enabled()
        try:
            cudnn.allow_tf32, cudnn.deterministic = True, False
            torch.use_deterministic_algorithms(False)
            with exact_convolutions(), repeatable():
                assert (cudnn.allow_tf32, cudnn.deterministic) == (False, True)
                assert torch.empty(9).isnan().all()
            assert (cudnn.allow_tf32, cudnn.deterministic) == (True, False)
            assert not torch.are_deterministic_algorithms_enabled()
        finally:
            cudnn.allow_tf32, cudnn.deterministic = before[:2]
            torch.use_deterministic_algorithms(before[2], warn_only=True)


def test_each_stage_has_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, float] = {}
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    monkeypatch.setenv("PYTHONPATH", "")
    monkeypatch.setattr(
        sys, "argv", ["gpu.py", "abs", "ops", "--budget", "100", "--out", str(tmp_path), "--no-build"]
    )
    monkeypatch.setattr(gpu, "launch", lambda stage, given: seen.update({stage: given["deadline"]}))
    assert gpu.main() == 0
    assert list(seen) == ["abs", "ops"]
    assert all(0 < deadline - time.monotonic() <= 100 for deadline in seen.values())
    assert all(deadline - time.monotonic() > 90 for deadline in seen.values())
    failed = {"stage": "abs", "case": "a", "status": "failed", "why": "E"}
    monkeypatch.setattr(gpu, "recorded", lambda path: iter([failed | {"run": row_run[0]}]))
    row_run: list[str] = []
    monkeypatch.setattr(gpu, "launch", lambda stage, given: row_run.append(given["run"]))
    assert gpu.main() == 1

"""Each stage of `make gpu` runs at tiny sizes, and what fastadv is compared with computes the same thing."""

import importlib
import json

import pytest
import torch
from gpu_runs import ends, ran, session

import fastadv as fa
from bench import pgd
from bench.gpu import abs as gpu_abs
from bench.gpu import attacks as gpu_attacks
from bench.gpu import nets as gpu_nets
from bench.gpu import worker as gpu_worker
from bench.gpu.attack_calls import budget, threat_of
from bench.gpu.construct import eager_random_target
from bench.gpu.training import attacked
from fastadv.data.construct import CIFAR10_PAPER
from fastadv.ops.registration.library import CARDS

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, in the interpreter


class TestStages:
    @pytest.mark.parametrize("stage", gpu_worker.STAGES)
    def test_every_case_is_done_or_says_why_not(self, stage: str) -> None:
        rows = ran(stage)
        assert [row for row in rows if row.get("status") == "failed" or "error" in row] == []
        whys = {row["why"] for row in rows if row.get("status") == "skipped"}
        assert whys <= {"widths are tuned on a GPU alone"}
        assert "done" in ends(rows).values()
        json.dumps(rows)
        timed = [row for row in rows if "p50_ms" in row]
        assert all(0 < row["p20_ms"] <= row["p50_ms"] <= row["p80_ms"] for row in timed)
        if stage != "correctness":
            assert timed
            assert {row["provider"] for row in rows if row["case"] == "ceilings" and "provider" in row} == {
                "copy", "fp32 product", "tf32 product", "bf16 product", "fp16 product",
            }  # fmt: skip
            assert {row["share_of"] for row in timed if "share" in row} <= {
                "copy", "fp32 product", "tf32 product", "bf16 product", "fp16 product",
            }  # fmt: skip

    def test_attacks_name_their_result_and_their_ceiling(self) -> None:
        rows = [row for row in ran("attacks", "PGD MLP") if row["case"].startswith("PGD") and "p50_ms" in row]
        found = {row["provider"]: row for row in rows}
        assert {"eager", "fastadv fp32", "fastadv bf16", "ideal fp32", "ideal bf16"} <= found.keys()
        for name in ("eager", "fastadv fp32", "fastadv bf16"):
            assert 0 <= found[name]["accuracy"] <= 1
            assert found[name]["loss"] > 0
            assert found[name]["times_eager"] > 0
        assert found["fastadv bf16"]["share_of"] == "bf16 product"
        assert found["fastadv fp32"]["share_of"] == "fp32 product"
        assert found["fastadv fp32"]["times_ideal_time"] > 0
        assert "times_ideal_time" not in found["ideal fp32"]

    def test_every_registered_attack_has_a_case(self) -> None:
        for module in ("correctness", "attacks"):
            cases = __import__(f"bench.gpu.{module}", fromlist=["cases"]).cases(session())
            assert {f"attack {name}" for name in fa.attacks.ATTACKS} <= {case.name for case in cases}

    def test_every_op_is_checked_and_measured(self) -> None:
        correctness = {
            case.name for case in importlib.import_module("bench.gpu.correctness").cases(session())
        }
        assert {f"op {name}" for name in CARDS} <= correctness
        ops = {case.name.split()[0] for case in importlib.import_module("bench.gpu.ops").cases(session())}
        # what has no kernel for a GPU is a reference there, and not measured
        assert {name for name, card in CARDS.items() if card.triton} <= ops


class TestProviders:
    """What fastadv is compared with computes the same thing."""

    def test_the_resnets_are_torchvisions(self) -> None:
        from fastadv._torchvision import models

        for ours, theirs in ((gpu_nets.resnet50(side=64), models.resnet50()),):
            theirs.load_state_dict(ours.state_dict())
            x = torch.rand(1, 3, 64, 64)
            with torch.no_grad():
                torch.testing.assert_close(ours(x), theirs.eval()(x))
        ours = gpu_nets.resnet18()
        named = fa.models.create("resnet18")
        named.load_state_dict(ours.state_dict())
        x = torch.rand(2, 3, 32, 32)
        with torch.no_grad():
            torch.testing.assert_close(ours(x), named.eval()(x))

    def test_eager_pgd_is_pgd(self) -> None:
        given = gpu_attacks.problem(session(), "MLP 784-256-10")
        x_adv = pgd.plain(given)
        assert given.threat.contains(x_adv, given.x).all()
        out = fa.attacks.last_iterate(
            fa.freeze(given.model),
            given.x,
            given.y,
            given.threat,
            steps=given.steps,
            step_size=given.step_size,
        )
        torch.testing.assert_close(x_adv, out, rtol=0, atol=2e-7)

    def test_operations_of_a_step(self) -> None:
        given = gpu_attacks.problem(session(), "MLP 784-256-10")
        # a forward and an input gradient, of two operations a weight each
        assert gpu_attacks.step_flops(given) == 2 * 2 * (784 * 256 + 256 * 10) * len(given.x)
        assert all(part.requires_grad for part in given.model.parameters())

    def test_eager_abs_is_abs(self) -> None:
        net = gpu_abs.model(session())
        x, prior = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1)), net.bank()
        bias = net.beta / 2 * net.prior_latents.square().sum(1)
        losses = gpu_abs.eager(net, x, prior, prior.square().sum(2), bias)
        torch.testing.assert_close(losses, -net(x), rtol=1e-4, atol=1e-5)

    def test_eager_training_attacks_in_eval_mode_inside_the_ball(self) -> None:
        net = gpu_nets.small_net().train()
        before = [tensor.clone() for tensor in net.state_dict().values()]
        x = torch.rand(4, 3, 32, 32)
        x_adv = attacked(net, x, torch.arange(4))
        assert net.training
        assert all(map(torch.equal, before, net.state_dict().values()))
        assert (x_adv - x).abs().max() <= 8 / 255 + 1e-6

    def test_eager_random_target_goes_to_the_target(self) -> None:
        net, x = gpu_nets.small_net(), torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(2))
        targets = torch.tensor([0, 1, 2, 3])
        made = eager_random_target(net, x, targets, CIFAR10_PAPER["d_rand"], 3)
        assert fa.L2(0.5 + 1e-5).contains(made, x).all()
        with torch.no_grad():
            before, after = (torch.nn.functional.cross_entropy(net(z), targets) for z in (x, made))
        assert after < before


class TestAttackCalls:
    def test_minimum_norm_attacks_have_an_infinite_radius(self) -> None:
        entry = fa.attacks.ABS_ATTACKS["latent_descent"]
        assert threat_of(entry, "l2").radius == float("inf")
        assert threat_of(fa.attacks.ATTACKS["pgd"], "l2").radius == 0.5

    def test_budgets(self) -> None:
        assert budget(fa.attacks.ATTACKS["pgd"], tiny=True)["steps"] == 2
        assert budget(fa.attacks.ATTACKS["pgd"], tiny=False)["steps"] == 10
        assert "steps" not in budget(fa.attacks.ATTACKS["fgsm"], tiny=True)

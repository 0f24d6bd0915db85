"""PGD beside other libraries: what a row says, and that every provider solves the same problem."""

import mmap
import os
import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from bench import attacks, memory, peers, pgd, problems, providers, timing
from bench.gpu import nets

CPU = torch.device("cpu")


def small(count: int = 6, steps: int = 3) -> pgd.Problem:
    model, x = (
        nets.small_net(width=4),
        torch.rand(count, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
    )
    return pgd.Problem("small", model, x, pgd.classes(model, x), 0.05, 0.02, steps)


def times(ways: dict[str, Callable[[], object]], *rest: Any, **more: Any) -> dict[str, list[float]]:
    """Each way is called once; the n-th takes n milliseconds."""
    for way in ways.values():
        way()
    return {name: [float(i)] for i, name in enumerate(ways, 1)}


class TestProviders:
    @pytest.mark.parametrize("name", [n for n in providers.PROVIDERS if n not in peers.PEERS])
    def test_ours_and_the_loops_find_points_as_strong_in_the_ball(self, name: str) -> None:
        if name == providers.COMPILED:
            pytest.skip("compiling takes half a minute")
        given = small()
        x_adv = providers.PROVIDERS[name](given)()
        reached = torch.nn.functional.cross_entropy(given.model(x_adv), given.y)
        by_hand = torch.nn.functional.cross_entropy(given.model(pgd.plain(given)), given.y)
        assert attacks.found(given, x_adv)["distance"] == pytest.approx(0.05, abs=0.011)
        assert x_adv.min() >= 0
        assert x_adv.max() <= 1
        if "early stop" not in name:
            assert reached.item() == pytest.approx(by_hand.item(), rel=0.05)

    @pytest.mark.parametrize("name", peers.PEERS)
    def test_a_peer_takes_the_same_steps(self, name: str) -> None:
        given, want = small(), pgd.plain(small())
        rows = torch.ones(len(want), dtype=torch.bool)
        if name == "adv-lib":  # the last point that it has seen fool the model, one step behind
            given, rows = replace(given, steps=given.steps + 1), pgd.classes(given.model, want) != given.y
        try:
            call = peers.PEERS[name](given)
        except ImportError:
            pytest.skip(f"{name} is not installed")
        far = call() - want
        # the sign of a gradient of zero is a matter of rounding
        assert rows.any()
        assert (far[rows].abs() > 1e-5).float().mean() < 0.002

    def test_a_compiled_loop_needs_no_weight_gradients_and_leaves_the_net_as_it_is(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given, seen = small(), []
        monkeypatch.setattr(torch, "compile", lambda model: seen.append(model) or model)
        assert torch.equal(providers.compiled(given)(), pgd.plain(given))
        assert seen[0] is not given.model
        assert not any(p.requires_grad for p in seen[0].parameters())
        assert all(p.requires_grad for p in given.model.parameters())

    def test_one_that_is_not_installed_costs_its_own_rows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def absent(given: pgd.Problem) -> Callable[[], Tensor]:
            raise ImportError("no such package")

        known = {"plain loop": providers.PROVIDERS["plain loop"], "absent": absent}
        monkeypatch.setattr(providers, "PROVIDERS", known)
        assert list(providers.providers(small())) == ["plain loop"]


class TestArguments:
    """ART and cleverhans where they are not installed: what they are called with."""

    def test_of_art(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: dict[str, Any] = {}

        class Attack:
            def __init__(self, classifier: Any, **options: Any) -> None:
                made.update(options, classifier=classifier)

            def generate(self, x: Any, y: Any) -> Any:
                return np.clip(x + made["eps"], 0, 1)

        stand_in(monkeypatch, "art.attacks.evasion", ProjectedGradientDescentPyTorch=Attack)
        stand_in(monkeypatch, "art.estimators.classification", PyTorchClassifier=lambda *a, **k: (a, k))
        given = small()
        assert torch.equal(peers.art(given)(), (given.x + 0.05).clamp(0, 1))
        assert (made["eps"], made["eps_step"], made["max_iter"], made["batch_size"]) == (0.05, 0.02, 3, 6)
        (_, loss, shape, classes), options = made["classifier"]
        assert isinstance(loss, torch.nn.CrossEntropyLoss)
        assert (shape, classes, options["clip_values"]) == ((3, 32, 32), 10, (0.0, 1.0))

    def test_of_cleverhans(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def attack(model: Any, x: Tensor, *budget: float, y: Tensor, **options: Any) -> Tensor:
            assert budget == (0.05, 0.02, 3, torch.inf)
            assert not options["rand_init"]
            return x + options["clip_max"]

        name = "cleverhans.torch.attacks.projected_gradient_descent"
        stand_in(monkeypatch, name, projected_gradient_descent=attack)
        given = small()
        assert torch.equal(peers.cleverhans(given)(), given.x + 1)

    def test_versions_are_those_of_packages_or_else_of_modules(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert peers.version_of("torch") == torch.__version__
        monkeypatch.setitem(sys.modules, "art", SimpleNamespace(__version__="1.2"))
        monkeypatch.setattr(peers, "version", lambda name: (_ for _ in ()).throw(PackageNotFoundError(name)))
        assert peers.version_of("ART") == "1.2"


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str, **members: Any) -> None:
    """A module of that name with its parents."""
    parts = name.split(".")
    for end in range(1, len(parts)):
        monkeypatch.setitem(sys.modules, ".".join(parts[:end]), ModuleType(parts[end - 1]))
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(**members))


class TestRows:
    def test_each_has_time_result_memory_and_its_share_of_the_ceiling(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(attacks, "times", times)
        given = small()
        names = ("plain loop", "fastadv fp32", "fastadv bf16", "fastadv fp32, early stop")
        ways = {name: providers.PROVIDERS[name](given) for name in names}
        rows = {
            row["provider"]: row
            for row in attacks.measured(given, ways, 0.0, {"fastadv fp32": {"peak_mib": 3.0}})
        }
        assert list(rows) == [*names, "passes alone, fp32", "passes alone, bf16"]
        assert all({"p20_ms", "p50_ms", "p80_ms", "times_plain"} <= row.keys() for row in rows.values())
        assert all({"accuracy", "distance"} <= rows[name].keys() for name in names)
        assert rows["fastadv fp32"]["peak_mib"] == 3.0
        shares = {name: row.get("share_of_ceiling") for name, row in rows.items()}
        assert shares["plain loop"] == 5.0
        assert shares["fastadv fp32"] == 2.5
        assert shares["fastadv bf16"] == 2.0
        assert shares["fastadv fp32, early stop"] is shares["passes alone, fp32"] is None

    def test_the_accuracy_is_that_of_the_model_itself(self) -> None:
        given = small()
        assert attacks.found(given, given.x) == {"accuracy": 1.0, "distance": 0.0}
        flipped = replace(given, y=(given.y + 1) % 10)
        assert attacks.found(flipped, given.x + 0.01)["accuracy"] < 1
        assert attacks.found(flipped, given.x + 0.01)["distance"] == pytest.approx(0.01, abs=1e-6)

    @pytest.mark.parametrize("name", [n for n in problems.NAMES if n != "resnet18"])
    def test_without_data_there_are_untrained_nets(self, name: str) -> None:
        given = problems.problem(name, None, None, CPU)
        assert problems.what(given).startswith(f"PGD-{given.steps} Linf ")
        assert attacks.found(given, given.x)["accuracy"] == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
class TestMemory:
    def test_what_a_call_takes_is_seen_though_it_gives_it_back(self) -> None:
        def call() -> None:
            for _ in range(3):  # not from freed memory, which the process may still hold
                np.frombuffer(mmap.mmap(-1, 64 * 2**20), np.uint8)[:] = 1

        assert 60 * 2**20 < memory.grown(call) < 90 * 2**20
        assert memory.grown(lambda: None) < 2**20

    def test_a_provider_in_its_own_process(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        assert 0.1 < memory.of_provider("mlp", "fastadv fp32", None, None)["peak_mib"] < 2000


def test_ways_take_turns_until_their_time_or_their_share_is_spent(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr(timing.time, "perf_counter", lambda: clock[0])
    calls: list[str] = []

    def way(name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            calls.append(name)
            clock[0] += seconds

        return run

    taken = timing.times({"slow": way("slow", 2.0), "fast": way("fast", 0.5)}, seconds=1.0, least=3)
    assert calls == ["slow", "fast", "fast"] + ["slow", "fast"] * 3  # one warm call of what takes a second
    assert taken == {"slow": [2000.0] * 3, "fast": [500.0] * 3}
    taken = timing.times({"slow": way("slow", 2.0), "fast": way("fast", 0.01)}, seconds=1.0, least=2)
    assert len(taken["fast"]) == 3  # not a hundred

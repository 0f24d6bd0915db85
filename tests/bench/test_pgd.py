"""PGD beside other libraries: every provider solves the same problem, and its memory is told."""

import mmap
import os
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

from bench import nets, peers, pgd, providers
from bench.subjects import attacks, memory
from runs import session


def small(count=6, steps=3):
    draw = torch.Generator().manual_seed(1)
    model, x = nets.small_net(width=4), torch.rand(count, 3, 32, 32, generator=draw)
    return pgd.Problem("small", model, x, pgd.classes(model, x), 0.05, 0.02, steps)


class TestProviders:
    @pytest.mark.parametrize("name", [n for n in providers.PROVIDERS if n not in peers.PEERS])
    def test_ours_and_the_loops_find_points_as_strong_in_the_ball(self, name):
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
    def test_a_peer_takes_the_same_steps(self, name):
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

    def test_one_that_is_not_installed_costs_its_own_rows(self):
        def absent(given):
            raise ImportError("no such package")

        chosen = {"plain loop": providers.PROVIDERS["plain loop"], "absent": absent}
        given = session()
        assert list(providers.made(given, small(), chosen)) == ["plain loop"]
        assert given.notes == [
            "absent is not installed or cannot run here; its rows are missing (ImportError: no such package)"
        ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="there is no /proc")
class TestMemory:
    @pytest.mark.slow
    def test_what_a_call_takes_is_seen_though_it_gives_it_back(self):
        def call():
            for _ in range(3):  # not from freed memory, which the process may still hold
                np.frombuffer(mmap.mmap(-1, 64 * 2**20), np.uint8)[:] = 1

        assert 60 * 2**20 < memory.grown(call) < 90 * 2**20
        assert memory.grown(lambda: None) < 2**20

    @pytest.mark.slow
    def test_a_provider_in_its_own_process(self, monkeypatch):
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        assert 0.1 < memory.of_provider(session(), "mlp", "fastadv fp32")["peak_mib"] < 2000

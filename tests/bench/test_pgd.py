"""PGD beside other libraries: every provider solves the same problem, and its memory is told."""

from dataclasses import replace

import pytest
import torch

from bench import nets, peers, pgd, providers
from bench.subjects import attacks


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

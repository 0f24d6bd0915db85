"""The page of pitfalls shows the stored rows, and each check tells a right attack from a wrong one."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.conduct import page
from bench.conduct.attack import RADIUS, RESTARTS, START, STEP, TARGETS, Answer, Attack, Given, can
from bench.conduct.checks import RIGHT, WRONG
from bench.conduct.libraries import LIBRARIES, ours
from bench.conduct.pitfalls import PITFALLS
from bench.records import ROOT

STORED = page.stored()


class TestPage:
    def test_it_shows_the_stored_rows(self):
        text = page.PAGE.read_text()
        assert text == page.replaced(text, page.written(STORED)), "run python -m bench.conduct --page"

    def test_each_library_has_a_row_for_each_attack_and_pitfall(self):
        for library in LIBRARIES:
            rows = [row for row in STORED if row["library"] == library]
            counted = Counter(row["attack"] for row in rows)
            assert counted
            assert set(counted.values()) == {len(PITFALLS)}, library
            assert len({row["version"] for row in rows}) == 1

    def test_there_are_fifteen_each_with_a_check_of_its_own_and_tests_that_exist(self):
        assert len(PITFALLS) == len({pitfall.check for pitfall in PITFALLS}) == 15
        for pitfall in PITFALLS:
            assert pitfall.tests
            for test in pitfall.tests:
                file, name = test.split("::")
                assert f"def {name}(" in (ROOT / "tests" / "attacks" / file).read_text(), test

    def test_a_cell_counts_the_wrong_ones(self):
        def cell(*outcomes):
            return page.cell([{"outcome": outcome} for outcome in outcomes])

        assert cell("right", "right", "not applicable") == "right"
        assert cell("wrong", "right", "not tried") == "**1 of 2 wrong**"
        assert cell("wrong", "wrong") == "**wrong**"
        assert cell("not applicable") == "–"
        assert cell("not tried", "not applicable") == "not tried"


def gradient(model: nn.Module, x: Tensor, y: Tensor, flaw: str) -> Tensor:
    x = x.clone().requires_grad_()
    loss = cross_entropy(model(x), y, reduction="sum")
    if flaw == "state":
        loss.backward()
        return x.grad
    return torch.autograd.grad(loss, x)[0]


def flawed(flaw: str, norm: str = "l2") -> Attack:
    """Plain PGD with one mistake."""

    def call(model: nn.Module, x: Tensor, y: Tensor, given: Given) -> Answer:
        if flaw == "classes":
            model(x).topk(3)
        at, best = x.clone(), x.clone()
        for _ in range(given.restarts):
            at = x.clone()
            if given.start:
                draw = torch.randn_like(x) if norm == "l2" else torch.rand_like(x) * 2 - 1
                length = torch.rand(len(x), 1, 1, 1) if norm == "l2" else 1.0
                size = draw.flatten(1).norm(dim=1)[:, None, None, None] if norm == "l2" else 1.0
                at = (x + given.radius * length * draw / size).clamp(0, 1)
            for _ in range(given.steps):
                if flaw == "last_step":
                    missed = (model(at).argmax(1) != y).detach()
                    best[missed] = at[missed]
                g = gradient(model, at, y if given.targets is None else given.targets, flaw)
                whole = g.norm() if flaw == "batch" else g.flatten(1).norm(dim=1)[:, None, None, None]
                moved = given.stride * (g / (whole + 1e-6) if norm == "l2" else g.sign())
                if flaw == "saturated":
                    moved = torch.where((x == 0) | (x == 1), 0, moved)
                away = at + moved - x
                if norm == "l2":
                    far = away.flatten(1).norm(dim=1)[:, None, None, None]
                    away = away * (given.radius / far.clamp(min=1e-12)).clamp(max=1)
                else:
                    away = away.clamp(-given.radius, given.radius)
                at = (x + away * (1.01 if flaw == "budget" else 1)).clamp(0, 1)
        if flaw == "failure":
            at = torch.zeros_like(x)
        return Answer(best if flaw == "last_step" else at.detach())

    takes = (RADIUS, STEP, START, RESTARTS, TARGETS)
    if flaw == "misread":  # as an attack without a radius
        takes = (TARGETS,)
    return Attack("toy", flaw, norm, call, can(*takes))


IN_LINF = ("restarts",)
OURS = {(attack.name, attack.norm, attack.loss): attack for attack in ours.ATTACKS}


def right(name: str) -> Attack:
    """One of fastadv's for which the check makes sense."""
    if name == "misread":
        return OURS["ddn", "l2", ""]
    if name == "classes":
        return OURS["apgd", "linf", "dlr"]
    return OURS["pgd", "linf" if name in IN_LINF else "l2", ""]


@pytest.mark.slow
@pytest.mark.parametrize("pitfall", PITFALLS, ids=lambda pitfall: pitfall.check.__name__)
class TestChecks:
    def test_a_wrong_attack_is_told(self, pitfall):
        name = pitfall.check.__name__
        found = pitfall.check(flawed(name, "linf" if name in IN_LINF else "l2"))
        assert found.outcome == WRONG, found.text

    def test_a_right_attack_is_told(self, pitfall):
        found = pitfall.check(right(pitfall.check.__name__))
        assert found.outcome == RIGHT, found.text

"""The mistakes that `make mutate` plants are plausible, and its list of harmless survivors is up to date."""

import ast
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCE = '''
"""Numbers such as 1."""
log = getLogger(__name__)
Number = int | None


class Ball:
    def near(self, x: int | None, *, loud=True):
        """Within 2."""
        if x < 3:
            raise InputError(f"x: {x + 1}")
        log.info("x %d", x + 1)
        return self.scale(x, 2 - x, power=4).min() and x
'''


@pytest.mark.slow
def test_mistakes_are_planted_where_something_is_computed():
    mutants = pytest.importorskip("mutants", reason="needs the extra `mutate`")
    planted = [site.mutant() for site in mutants.sites("ball.py", SOURCE)]
    changes = {mutant.after for mutant in planted}
    call = "return self.scale(x, 2 - x, power=4).min() and x"
    assert changes == {
        "def near(self, x: int | None, *, loud=False):",
        "if x <= 3:",
        "if x < 4:",
        "if (x < 3) and False:",
        "if (x < 3) or True:",
        "return self.scale(x, 2 - x, power=4).min() or x",
        "return self.scale(x, 2 - x, power=4).min()",
        "return x",
        call.replace("min", "max"),
        call.replace("2 - x", "2 + x"),
        call.replace("2 - x", "3 - x"),
        call.replace("2 - x", "2"),
        call.replace("2 - x", "x"),
        call.replace("x, 2 - x", "2 - x, x"),
        call.replace("2 - x, ", ""),
        call.replace("power=4", ""),
        call.replace("4", "5"),
    }
    assert all(ast.parse(mutant.source) for mutant in planted)
    assert {mutant.function for mutant in planted} == {"Ball.near"}
    assert {mutant.before for mutant in planted if mutant.line == 10} == {"if x < 3:"}


@pytest.mark.parametrize(
    ("file", "mirror", "folder"),
    [
        ("fastadv/rng.py", "tests/test_rng.py", "tests/attacks"),
        ("fastadv/threat/base.py", "tests/test_threat.py", "tests/attacks"),
        ("fastadv/models/weights.py", "tests/models/test_weights.py", "tests/models"),
        ("fastadv/data/construct/targeted.py", "tests/data/test_construct.py", "tests/data"),
    ],
)
def test_the_closest_tests_run_first(file, mirror, folder):
    trial = pytest.importorskip("trial", reason="needs the extra `mutate`")
    closest, quick, slow = trial.stages(file)
    assert mirror in closest
    assert {folder, f"--ignore={mirror}"} <= set(quick)
    assert quick[-2:] == ("-m", "not slow")
    assert slow == (*quick[:-1], "slow")


def test_accepted_survivors_still_stand_in_the_source():
    rows = tomllib.loads((ROOT / "tests" / "mutation" / "survivors.toml").read_text()).get("survivor", [])
    for row in rows:
        lines = [line.strip() for line in (ROOT / row["file"]).read_text().splitlines()]
        assert set(row["before"].splitlines()) <= set(lines), f"{row['file']}: {row['before']}"
        assert row["before"] != row["after"]
        assert row["why"].strip()

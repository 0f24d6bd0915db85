"""`fastadv conformance`: its exit codes, its table, and its files."""

import json
from dataclasses import replace
from math import inf

import pytest

from fastadv.cli import _conformance, main
from fastadv.evaluation.conformance import Comparison, Conformance, Run


def told(theirs: int) -> Conformance:
    run = Run("pgd", 0.5, 0.7, inf, 10, 10, 0.1, 2.0)
    odd = replace(run, flags=("3 points outside the threat were refused",))
    line = Comparison("robust", "pgd", "linf", run, odd, 40, (1,), tuple(range(2, 2 + theirs)))
    return Conformance((line,), {"robust, art PGD, linf": "ValueError: no"})


def test_nothing_compared_is_no_success(monkeypatch, capsys):
    monkeypatch.setattr(_conformance, "installed", lambda: ("art",))
    nothing = Conformance((), {"robust, art PGD, linf": "ValueError: no"})
    monkeypatch.setattr(_conformance.study, "run", lambda *given: nothing)
    assert main(["conformance"]) == 1
    assert "0 comparisons" in capsys.readouterr().out


def test_the_table_fits_eighty_columns(monkeypatch, capsys):
    (line,) = told(30).comparisons
    wide = replace(line, case="apgd-restarts", net="quantized", theirs=replace(line.theirs, success=0.996))
    wide = replace(wide, theirs=replace(wide.theirs, attack=f"torchattacks {'A' * 40}"), only_ours=(1,) * 120)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(_conformance, "installed", lambda: ("torchattacks",))
    monkeypatch.setattr(_conformance.study, "run", lambda *given: Conformance((wide,), {}))
    assert main(["conformance"]) == 0
    shown = [" ".join(row.replace("│", " ").split()) for row in capsys.readouterr().out.splitlines()]
    assert "apgd-restarts L∞ quantized torchattacks 50/99.6 120/30 1" in shown


@pytest.mark.slow
@pytest.mark.parametrize(("theirs", "code"), [(0, 0), (12, 1)])
def test_the_exit_code_says_whether_ours_is_weaker(theirs, code, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(_conformance, "installed", lambda: ("art",))
    monkeypatch.setattr(_conformance.study, "run", lambda *given: told(theirs))
    assert main(["conformance", "--out", str(tmp_path / "made")]) == code
    printed = capsys.readouterr().out
    assert ("weaker: pgd in linf on robust than pgd" in printed) == bool(code)
    assert "failed: robust, art PGD, linf: ValueError: no" in printed
    assert "pgd in linf on robust: 3 points outside the threat were refused" in printed
    kept = json.loads((tmp_path / "made" / "conformance.json").read_text())
    assert len(json.dumps(kept)) > 100
    assert (tmp_path / "made" / "conformance.png").stat().st_size > 1000


def test_without_packages_it_says_how_to_get_them(monkeypatch, capsys):
    monkeypatch.setattr(_conformance, "installed", lambda: ())
    for more in ([], ["--peers", "foolbox"]):
        assert main(["conformance", *more]) == 2
        assert "pip install 'fastadv[bench]'" in capsys.readouterr().err

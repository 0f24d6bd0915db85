"""`pytest --changed` runs what a change can reach."""

import pytest

from tests.changed import differing, reached

EVERY = {
    "tests/test_box.py",
    "tests/cli/test_doctor.py",
    "tests/ops/test_contract.py",
    "tests/bench/test_page.py",
}


CHANGED = {
    "bench/page/calls.py": {"tests/bench/test_page.py"},
    "fastadv/cli/_options.py": {"tests/cli/test_doctor.py"},
    "fastadv/cli/_train.py": {"tests/cli/test_doctor.py"},  # by a conftest
    "fastadv/ops/triton/l1_step.py": EVERY,  # loaded by its name
    "csrc/kernels.h": EVERY,
    "docs/parity.md": {"tests/bench/test_page.py", "tests/ops/test_contract.py"},
    "pyproject.toml": EVERY,
    "fastadv/gone.py": EVERY,
}


@pytest.mark.slow
def test_a_change_runs_the_files_that_import_it_directly_or_through_others():
    assert {path: reached({path}) & EVERY for path in CHANGED} == CHANGED


def test_a_commit_that_is_not_there_is_an_error():
    with pytest.raises(pytest.UsageError, match="no-such-commit"):
        differing("no-such-commit")

"""With `deterministic`, the bits of a run do not depend on the number of processes."""

import dataclasses
import functools

import pytest
import torch

from fastadv.train import reports
from tests.processes import go
from tests.train.processes.exact import CASES_OF, EXACT, resumed, train

WORKER = "tests.train.processes.exact"


@pytest.fixture(scope="module")
def alone(one_thread):
    return {name: train(name) for name in EXACT}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """What each process of so many has trained."""

    @functools.cache
    def of(world):
        folder = tmp_path_factory.mktemp("exact")
        go(WORKER, "every_case", folder, world)
        return [torch.load(folder / f"exact-{rank}.pt", weights_only=True) for rank in range(world)]

    return of


@pytest.mark.slow
@pytest.mark.parametrize(("world", "name"), [(n, name) for n, names in CASES_OF.items() for name in names])
def test_every_bit_is_that_of_one_process(world, name, trained, alone):
    for others in trained(world):
        for key, weight in alone[name]["weights"].items():
            assert torch.equal(others[name]["weights"][key], weight), key
        assert others[name]["reports"] == alone[name]["reports"]


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_with_another_number_of_processes(one_thread, tmp_path):
    whole = resumed(None)
    resumed(tmp_path / "from-one", stop=4)
    go(WORKER, "halves", tmp_path, 2)
    results = [torch.load(tmp_path / f"from-one-{rank}.pt", weights_only=True) for rank in range(2)]
    results.append(resumed(tmp_path / "from-many", resume=True))
    for result in results:
        assert all(torch.equal(result["weights"][key], weight) for key, weight in whole["weights"].items())
    for name in ("from-one", "from-many"):
        told = [
            dataclasses.asdict(report) | {"seconds": 0.0, "waiting": 0.0}
            for report in reports(tmp_path / name)
        ]
        assert told == whole["reports"]

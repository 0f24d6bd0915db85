"""run: fit to its end. A fit that nobody iterates says so."""

import gc
import inspect
import subprocess
import sys
import warnings
from dataclasses import replace

import pytest
import torch

import fastadv as fa
from fastadv.errors import InputError
from fastadv.runs.folder import RunFolder
from fastadv.train import Standard, fit, run

from .nets import images, net

OPTIONS = {"epochs": 2, "batch_size": 10}


def timeless(past):
    return [replace(report, seconds=0.0) for report in past]


def test_run_is_fit_to_its_end(tmp_path):
    model, other = net(), net()
    past = run(model, images(), Standard(), run_dir=tmp_path, **OPTIONS)
    assert timeless(past) == timeless(fit(other, images(), Standard(), **OPTIONS))
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    assert fa.train.reports(tmp_path) == past
    assert run(net(), images(), Standard(), run_dir=tmp_path, resume=True, **OPTIONS) == []
    assert inspect.signature(run).parameters == inspect.signature(fit).parameters
    with pytest.raises(InputError, match="epochs"):
        run(net(), images(), Standard(), epochs=0)


def test_a_fit_that_nobody_iterates_warns(tmp_path):
    model = net()
    before = model[5].weight.clone()
    with pytest.warns(UserWarning, match=r"nothing was trained; .*fastadv\.train\.run") as told:
        fit(model, images(), Standard(), run_dir=tmp_path, **OPTIONS)
    assert told[0].filename == __file__
    assert torch.equal(model[5].weight, before)
    RunFolder(tmp_path).close()


def test_a_fit_that_was_started_or_closed_is_silent(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        next(fit(net(), images(), Standard(), **OPTIONS))
        list(fit(net(), images(), Standard(), **OPTIONS))
        closed = fit(net(), images(), Standard(), run_dir=tmp_path, **OPTIONS)
        closed.close()
        RunFolder(tmp_path).close()
        assert list(closed) == []
        with pytest.raises(InputError):
            fit(net(), images(), Standard(), epochs=0)
        gc.collect()


@pytest.mark.parametrize(("line", "said"), [("begun = {}", False), ("{}", True)], ids=["held", "dropped"])
def test_the_end_of_the_interpreter_is_silent(line, said):
    code = line.format("fit(net(), images(), Standard(), epochs=1)")
    imports = "from fastadv.train import Standard, fit; from tests.train.nets import images, net"
    done = subprocess.run(
        [sys.executable, "-c", f"{imports}\n{code}"], capture_output=True, text=True, check=True
    )
    assert ("nothing was trained" in done.stderr) == said
    assert said or not done.stderr

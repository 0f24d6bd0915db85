"""A folder to work in, a small net saved there, and the command line called as a function."""

import json
import sys
from typing import Any, NamedTuple

import pytest

from fastadv.cli import main
from fastadv.data import _load, load
from fastadv.models import SmallCNN, save_weights
from fastadv.train import Optimization, Standard, fit


class Done(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def timeless(value):
    if isinstance(value, dict):
        return {k: timeless(v) for k, v in value.items() if k not in ("seconds", "date", "machine", "out")}
    return [timeless(item) for item in value] if isinstance(value, list) else value


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """Commands run in an empty folder, see no data sets but the embedded one, and leave no module behind."""
    before = set(sys.modules)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FASTADV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def fastadv(capsys):
    """fastadv("evaluate -m small_cnn", "--more", ..., code=0) -> Done; it must end with that code."""

    def call(line, *more, code=0):
        capsys.readouterr()
        done = Done(main([*line.split(), *more]), *capsys.readouterr())
        assert done.code == code, done
        return done

    return call


@pytest.fixture
def refused(fastadv):
    """refused(line, says, code=2): nothing on stdout, and below notes the reason in one line on stderr."""

    def call(line, says, code=2):
        done = fastadv(line, code=code)
        assert done.out == "", (line, done)
        noted = ("untrained weights", "on one core")
        (spoken,) = [line for line in done.err.splitlines() if not any(note in line for note in noted)]
        assert spoken.startswith("fastadv: ")
        assert says in " ".join(spoken.split())
        return spoken

    return call


@pytest.fixture
def few_digits(monkeypatch):
    """The first of the digits alone, for what is only to run as it is written."""
    whole = _load.digits
    most = {"train": 200, "test": 40}
    monkeypatch.setattr(_load, "digits", lambda split: whole(split).subset(range(most[split])))


@pytest.fixture(scope="session")
def trained():
    model = SmallCNN(width=4)
    constant = Optimization(schedule="constant")
    fit(model, load("digits", "train"), Standard(), epochs=3, batch_size=64, optimization=constant)
    return model


@pytest.fixture
def net(folder, trained):
    """Options that name a small net with its weights in a file, and the digits."""
    save_weights(trained, folder / "net.safetensors")
    return "-m small_cnn -o width=4 -w net.safetensors --data digits"

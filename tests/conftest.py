"""What all tests share: threads, Hypothesis profiles, slow tests, real data, and NaN in fresh memory."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:  # the workers share the cores
    os.environ["OMP_NUM_THREADS"] = "1"  # read when numpy and torch are imported
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # more are processes that import torch first

import gc
import json
import logging
import random
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock
from hypothesis import settings

from fastadv.engine import frozen
from fastadv.threat import THREATS

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")  # before anything imports triton
else:
    torch.backends.cudnn.allow_tf32 = False  # the references must be no rougher than the kernels

WORKER = "PYTEST_XDIST_WORKER" in os.environ
ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT))  # for tests/ and, in tests/bench, bench/; an installed fastadv comes first
# fixtures of a session that take long, and whose time counts for the first test alone
SLOW_FIXTURES = {"shared_data", "builds"}
UNMARKED_SECONDS = 5.0  # a margin, for slow machines: a test is marked slow from a thirtieth of a second

# --hypothesis-profile selects the second
settings.register_profile("fixed", max_examples=30, deadline=None, derandomize=True, database=None)
settings.register_profile("explore", max_examples=300, deadline=None, print_blob=True)
settings.load_profile("fixed")


@dataclass(frozen=True)
class SharedData:
    """Real data for tests: `data_dir` holds MNIST/, `abs_official` state dicts, `cifar10` test images."""

    data_dir: Path
    abs_official: Path
    cifar10: Path


@pytest.fixture(scope="session")
def shared_data(tmp_path_factory: pytest.TempPathFactory) -> SharedData:
    """The folder in FASTADV_SHARED_DATA, or ../shared/data. MNIST is unpacked once; of the seventy thousand
    files of CIFAR-10, few are looked at. Skips where it is missing.
    """
    packed = Path(os.environ.get("FASTADV_SHARED_DATA", ROOT.parent / "shared" / "data"))
    if not (packed / "unpack.py").exists():
        pytest.skip(
            f"real data: {packed} is not there; set FASTADV_SHARED_DATA to the folder that holds unpack.py"
        )
    unpacked = ROOT / ".data"
    if not (unpacked / "MNIST" / "raw").exists():
        # the workers of one run share the parent of their temporary folders
        session = tmp_path_factory.getbasetemp().parent if WORKER else tmp_path_factory.getbasetemp()
        unpacked, done = session / "data", session / "data.done"
        with FileLock(session / "data.lock"):
            if not done.exists():
                command = [sys.executable, str(packed / "unpack.py"), str(unpacked), "mnist"]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
                done.touch()
    return SharedData(unpacked, packed / "abs_official", packed / "cifar10" / "cifar10_test.tar.xz")


@pytest.fixture(autouse=True)
def _poison() -> None:
    """Fresh memory holds NaN instead of whatever was there."""
    torch.use_deterministic_algorithms(True, warn_only=True)


@pytest.fixture(autouse=True)
def _no_handler_stays() -> Iterator[None]:
    """A command logs to the standard error of its test, which is closed when the next test logs."""
    before = list(logging.root.handlers)
    yield
    logging.root.handlers[:] = before


@pytest.fixture(scope="module")
def one_thread() -> Iterator[None]:
    """As many as each of the processes has that a test starts: rounding may depend on it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def uncollected() -> Iterator[None]:
    """What is freed during the test is freed with its last user, not by the garbage collector."""
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def logged() -> Iterator[logging.Handler]:
    """What is logged during the test. pytest's own `caplog` would cost each test that does not ask for it."""
    from tests.logged import Logged

    handler = Logged()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--other-machine", type=int, metavar="SEED", help="sum products in another order, drawn by SEED"
    )
    parser.addoption(
        "--shuffle", type=int, metavar="SEED", help="run the tests in another order, drawn by SEED"
    )
    parser.addoption(
        "--changed", nargs="?", const="HEAD", metavar="REF",
        help="only files of tests that import, directly or not, what differs from REF (HEAD) or is untracked",
    )  # fmt: skip


class Durations:
    """Adds up the time of each test with its set-up, by folder too; names what should be marked slow."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.marked: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration
        if "slow" in report.keywords:
            self.marked.add(report.nodeid)

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        for name, seconds in self.seconds.most_common():
            if seconds > UNMARKED_SECONDS and name not in self.marked:
                terminalreporter.line(f"{seconds:.1f} s and not marked slow: {name}")
        if not self.seconds:
            return
        folders: Counter[str] = Counter()
        for name, seconds in self.seconds.items():
            folders["/".join(name.partition("::")[0].split("/")[1:-1]) or "tests"] += round(seconds, 3)
        line = ", ".join(f"{folder} {seconds:.1f}" for folder, seconds in folders.most_common())
        terminalreporter.line(f"seconds by folder: {line}; sum {folders.total():.1f}")
        (ROOT / "build").mkdir(exist_ok=True)
        text = json.dumps({"folders": folders, "tests": self.seconds}, indent=1)
        (ROOT / "build" / "durations.json").write_text(text)


def pytest_configure(config: pytest.Config) -> None:
    if (seed := config.getoption("--other-machine")) is not None:
        from tests.other_machine import OtherMachine

        OtherMachine(seed)
    if (ref := config.getoption("--changed")) is not None:
        from tests.changed import Changed

        config.pluginmanager.register(Changed(ref))
    if not WORKER and config.args == config.getini("testpaths"):
        config.pluginmanager.register(Durations())


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Ten thousand tests stay to the end: looking for garbage among them takes a fifth of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.hookimpl(tryfirst=True)  # before -m and -k deselect
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if (seed := config.getoption("--shuffle")) is not None:
        drawn = lambda name: random.Random(f"{seed} {name}").random()  # noqa: E731
        items.sort(key=lambda item: (drawn(item.path), drawn(item.nodeid)))  # files stay together
    for item in items:
        assert " at 0x" not in item.nodeid, f"give the parameters of {item.name} ids without addresses"
        if SLOW_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """Name the table of values by norm that lacks one of THREATS, as it lacks a new one."""
    try:
        return (yield)
    except KeyError as error:
        if (norm := str(error).strip("'")) not in THREATS:
            raise
        at = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{os.path.relpath(at.filename, ROOT)}:{at.lineno}"
        pytest.fail(f"norm {norm!r} is missing in a table that {where} reads, `{at.line}`: add it", False)


@pytest.fixture
def search_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a Frozen search on its copy however small the batch is."""
    monkeypatch.setattr(frozen, "FEW", 0)


@pytest.fixture
def asked_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a Frozen count what its callers ask for, without what it compares."""
    comparing = frozen.Frozen._comparing

    @contextmanager
    def uncounted(asked: frozen.Frozen, x: torch.Tensor) -> Iterator[None]:
        with comparing(asked, x), asked.uncounted():
            yield

    monkeypatch.setattr(frozen.Frozen, "_comparing", uncounted)

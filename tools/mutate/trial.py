"""One mutant against the tests: which tests, in which order, in which copy of the tree, and for how long."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from mutants import Mutant

ROOT = Path(__file__).resolve().parents[2]
Stage = tuple[str, ...]


def stages(file: str) -> list[Stage]:
    """Arguments of the runs of pytest that look for a mistake in a file, the closest tests first."""
    tests, inside = ROOT / "tests", Path(file).relative_to("fastadv")
    folder, stems = tests / inside.parent, [inside.stem.strip("_")]
    while not folder.is_dir():
        stems.append(folder.name)
        folder = folder.parent
    around = [folder]
    if folder == tests:  # the attacks use every module at the top
        around = [*sorted(tests.glob("test_*.py")), tests / "attacks"]
    mirror = sorted({path for stem in stems for path in folder.glob(f"test_{stem}*.py")})

    def names(paths: list[Path]) -> list[str]:
        return [str(path.relative_to(ROOT)) for path in paths]

    rest = (*names(around), *(f"--ignore={name}" for name in names(mirror)))
    closest = [tuple(names(mirror))] if mirror else []
    return [*closest, (*rest, "-m", "not slow"), (*rest, "-m", "slow")]


class Copy:
    """A copy of the tree in which mistakes are planted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        listing = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True).stdout
        built = (str(path.relative_to(ROOT)) for path in (ROOT / "fastadv").glob("_C*.so"))
        for name in [*listed.splitlines(), *built]:
            if (ROOT / name).is_file():  # a listed file may be deleted
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, root / name)
        if (ROOT / ".data").exists():
            (root / ".data").symlink_to((ROOT / ".data").resolve())

    def passes(self, stage: Stage, timeout: float | None = None) -> bool:
        """Whether pytest passes in time; finding no test is passing."""
        process = FORKS.Process(target=run_pytest, args=(self.root, stage))
        process.start()
        process.join(timeout)
        if process.is_alive():
            os.killpg(process.pid, signal.SIGKILL)
            process.join()
        if process.exitcode == pytest.ExitCode.USAGE_ERROR:
            raise RuntimeError(f"mutate: pytest refuses {' '.join(stage)}")
        return process.exitcode in (pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED)


# Importing torch takes longer than most tests, so each run is forked from a process that has imported it.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["__main__", "torch", "scipy.stats", "hypothesis", "pytest"])


def run_pytest(root: Path, stage: Stage) -> None:
    """Run pytest on the tree at `root` in this process, which is a fork of its own, and exit."""
    os.setsid()  # so that a timeout ends what the tests started, too
    os.chdir(root)
    os.environ["PYTHONPATH"] = str(root)
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a source may change twice in the second that bytecode notes
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("FASTADV_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
    sys.dont_write_bytecode = True
    sys.path[:] = [str(root), *(place for place in sys.path if Path(place) != Path(__file__).parent)]
    # a process that a test starts would begin with the file that has started this one
    vars(sys.modules["__main__"]).pop("__file__", None)
    with Path("pytest.log").open("w") as log:
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
    import torch

    torch.set_num_threads(1)
    sys.exit(pytest.main(["-x", "--basetemp=.tmp", *stage]))


@dataclass
class Baseline:
    """How long each stage takes without a mistake, measured when first asked."""

    copy: Copy
    seconds: dict[Stage, float] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def timeout(self, stage: Stage) -> float:
        """Seconds after which a mistake has slowed the tests for sure."""
        # what a stage leaves out is a file or two: the whole folder is timed once
        stage = tuple(part for part in stage if not part.startswith("--ignore="))
        with self.lock:
            if stage not in self.seconds:
                start = time.monotonic()
                if not self.copy.passes(stage):
                    log = (self.copy.root / "pytest.log").read_text()
                    raise RuntimeError(f"mutate: these tests fail without a mistake: {stage}\n{log[-2000:]}")
                self.seconds[stage] = time.monotonic() - start
                print(f"mutate: {self.seconds[stage]:5.1f} s  {' '.join(stage)}", flush=True)
            return 60 + 5 * self.seconds[stage]


def notice(mutant: Mutant, copy: Copy, baseline: Baseline, depth: int | None = None) -> int:
    """The stage, counted from 1, whose tests notice the mistake; 0 where none of `depth` stages does."""
    path = copy.root / mutant.file
    original = path.read_text()
    path.write_text(mutant.source)
    try:
        for number, stage in enumerate(stages(mutant.file)[:depth], 1):
            if not copy.passes(stage, baseline.timeout(stage)):
                return number
        return 0
    finally:
        path.write_text(original)

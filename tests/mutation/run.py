"""Plant mistakes in fastadv one at a time, and see which ones the tests notice.

    make mutate [N=200] [SEED=0] [PATHS="fastadv/rng.py fastadv/attacks"] [AGAIN=1]

A seeded sample of the mistakes in PATHS is tried, each in a temporary copy of the tree. First run the tests that mirror the
module, then the rest of the folder around them, quick tests before slow ones; the first failure, or a run five times as long as
without the mistake, counts as noticed. Results are appended to build/mutation.jsonl, and what stands there is not tried again;
AGAIN=1 tries the unnoticed ones again, after tests were added.
Unnoticed mistakes that are known to be harmless stand in survivors.toml with the reason.
"""

import argparse
import json
import os
import queue
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from mutants import Mutant, sites

ROOT = Path(__file__).resolve().parents[2]
SURVIVORS = Path(__file__).with_name("survivors.toml")
ROOMS = ("attacks", "engine", "threat.py", "losses.py", "rng.py", "train", "data", "evaluation", "models/abs")
PATHS = [f"fastadv/{room}" for room in (*ROOMS, "models/weights.py")]
GOAL = 0.85

Key = tuple[str, str, str, str]


def stages(file: str, tests: Path) -> list[list[str]]:
    """Arguments of the runs of pytest that look for a mistake in a file of fastadv, the closest tests first."""
    inside = Path(file).relative_to("fastadv")
    folder, stems = tests / inside.parent, [inside.stem.strip("_")]
    while not folder.is_dir():
        stems.append(folder.name)
        folder = folder.parent
    mirror = sorted({str(path) for stem in stems for path in folder.glob(f"test_{stem}*.py")})
    # a module that all rooms use is also tested by the attacks
    around = (
        [str(folder)] if folder != tests else [*map(str, tests.glob("test_*.py")), str(tests / "attacks")]
    )
    rest = [*around, *(f"--ignore={path}" for path in mirror)]
    return [*([mirror] if mirror else []), [*rest, "-m", "not slow"], [*rest, "-m", "slow"]]


@dataclass
class Copy:
    """A copy of the tree in which mistakes are planted."""

    root: Path

    def __post_init__(self) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, capture_output=True, text=True, check=True,
        )  # fmt: skip
        built = [str(path.relative_to(ROOT)) for path in (ROOT / "fastadv").glob("_C*.so")]
        for name in [*listed.stdout.splitlines(), *built]:
            if (ROOT / name).is_file():
                (self.root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.root / name)
        if (ROOT / ".data").exists():
            (self.root / ".data").symlink_to((ROOT / ".data").resolve())

    def passes(self, arguments: list[str], timeout: float | None) -> bool:
        """Whether pytest passes, or finds no test, in time."""
        environment = os.environ | {
            "PYTHONPATH": str(self.root),
            "OMP_NUM_THREADS": "1",
            "PYTHONDONTWRITEBYTECODE": "1",  # a source may change twice in one second
        }
        environment.setdefault("FASTADV_SHARED_DATA", str(ROOT.parent / "shared" / "data"))
        command = [sys.executable, "-m", "pytest", "-x", f"--basetemp={self.root / '.tmp'}", *arguments]
        process = subprocess.Popen(
            command, cwd=self.root, env=environment, start_new_session=True,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            code = process.wait(timeout)
        except subprocess.TimeoutExpired:
            return False
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if code == 4:
            raise SystemExit(f"mutate: pytest does not understand {' '.join(command)}")
        return code in (0, 5)

    def notices(self, mutant: Mutant, seconds: dict[str, float]) -> int:
        """The stage, counted from 1, whose tests notice the mistake; 0 where none does."""
        path = self.root / mutant.file
        original = path.read_text()
        path.write_text(mutant.source)
        try:
            for number, arguments in enumerate(stages(mutant.file, self.root / "tests"), 1):
                if not self.passes(arguments, 20 + 5 * seconds[stage_name(arguments, self)]):
                    return number
            return 0
        finally:
            path.write_text(original)


def stage_name(arguments: list[str], copy: Copy) -> str:
    return " ".join(arguments).replace(f"{copy.root}/", "")


def sample(paths: list[str], count: int, seed: int) -> list[Mutant]:
    """`count` mutants drawn from all of those in the paths, in the order of the files."""
    files = [
        file
        for path in paths
        for file in (sorted((ROOT / path).rglob("*.py")) if (ROOT / path).is_dir() else [ROOT / path])
    ]
    everything = [site for file in files for site in sites(str(file.relative_to(ROOT)), file.read_text())]
    random.Random(seed).shuffle(everything)
    print(f"mutate: {len(everything)} mutations in {len(files)} files", flush=True)
    taken: dict[Key, Mutant] = {}
    for site in everything:
        if len(taken) == count:
            break
        if mutant := site.mutant():
            taken.setdefault(mutant.key, mutant)
    return sorted(taken.values(), key=lambda mutant: (mutant.file, mutant.line))


def accepted() -> dict[Key, str]:
    """Survivors known to be harmless, and why."""
    rows = tomllib.loads(SURVIVORS.read_text())["survivor"] if SURVIVORS.exists() else []
    return {(row["file"], row["function"], row["before"], row["after"]): row["why"] for row in rows}


def load(results: Path) -> dict[Key, int]:
    """The stage that noticed each mutant tried so far; 0 where none did."""
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return {(row["file"], row["function"], row["before"], row["after"]): row["noticed"] for row in rows}


def measure(mutants: list[Mutant], copy: Copy) -> dict[str, float]:
    """Seconds of each stage without a mistake. Stops where a test fails already."""
    seconds: dict[str, float] = {}
    for mutant in mutants:
        for arguments in stages(mutant.file, copy.root / "tests"):
            name = stage_name(arguments, copy)
            if name not in seconds:
                start = time.monotonic()
                if not copy.passes(arguments, None):
                    raise SystemExit(f"mutate: without any mutation these tests fail: {name}")
                seconds[name] = time.monotonic() - start
                print(f"mutate: {seconds[name]:5.1f} s  {name}", flush=True)
    return seconds


def report(mutants: list[Mutant], noticed: dict[Key, int]) -> int:
    """Print the share noticed in each room and the survivors nobody accepted; 0 where all is well, else 1."""
    reasons = accepted()
    done = [mutant for mutant in mutants if mutant.key in noticed]
    rooms: dict[str, list[bool]] = {}
    for mutant in done:
        room = "/".join(Path(mutant.file).parts[1:-1]) or Path(mutant.file).name
        rooms.setdefault(room, []).append(noticed[mutant.key] > 0)
    for room, found in sorted(rooms.items()):
        print(f"{sum(found):4d} of {len(found):4d} noticed in {room}")
    new = [mutant for mutant in done if not noticed[mutant.key] and mutant.key not in reasons]
    for mutant in new:
        print(f"\n# line {mutant.line}\n[[survivor]]")
        for name, text in zip(("file", "function", "before", "after"), mutant.key, strict=True):
            print(f"{name} = {json.dumps(text, ensure_ascii=False)}")
        print('why = ""')
    share = sum(noticed[mutant.key] > 0 for mutant in done) / max(len(done), 1)
    print(f"\nmutate: {share:.1%} of {len(done)} mutations noticed, {len(new)} unnoticed without a reason")
    return int(share < GOAL or bool(new))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=PATHS)
    parser.add_argument("--count", type=int, default=200, help="mutations to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--again", action="store_true", help="try the unnoticed ones of the results again")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutation.jsonl")
    options = parser.parse_args()
    options.results.parent.mkdir(parents=True, exist_ok=True)

    mutants = sample(options.paths, options.count, options.seed)
    noticed = load(options.results)
    reasons = accepted()
    todo = [
        mutant
        for mutant in mutants
        if mutant.key not in noticed
        or (options.again and not noticed[mutant.key] and mutant.key not in reasons)
    ]
    with tempfile.TemporaryDirectory(prefix="fastadv-mutate-") as folder, options.results.open("a") as file:
        copies: queue.Queue[Copy] = queue.Queue()
        for job in range(options.jobs):
            copies.put(Copy(Path(folder) / str(job)))
        seconds = measure(todo, copies.queue[0]) if todo else {}

        def attempt(mutant: Mutant) -> tuple[Mutant, int]:
            copy = copies.get()
            try:
                return mutant, copy.notices(mutant, seconds)
            finally:
                copies.put(copy)

        with ThreadPoolExecutor(options.jobs) as pool:
            for number, (mutant, stage) in enumerate(pool.map(attempt, todo), 1):
                row = {name: value for name, value in asdict(mutant).items() if name != "source"}
                file.write(json.dumps(row | {"noticed": stage}, ensure_ascii=False) + "\n")
                file.flush()
                noticed[mutant.key] = stage
                verdict = f"stage {stage}" if stage else "SURVIVES"
                print(
                    f"[{number}/{len(todo)}] {verdict:9} {mutant.file}:{mutant.line} {mutant.after}",
                    flush=True,
                )
    return report(mutants, noticed)


if __name__ == "__main__":
    raise SystemExit(main())

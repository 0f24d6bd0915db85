"""Plant mistakes in fastadv one at a time, and see which ones the tests notice.

    python tools/mutate/run.py [--count 200] [--seed 0] [--again] [fastadv/rng.py fastadv/attacks ...]

A seeded sample of the mistakes in PATHS is tried, each in a temporary copy of the tree. The tests that
mirror the module run first, then the rest of the folder around them, quick tests before slow ones. A
mistake is noticed when a test fails, or when the tests take five times as long as without it. Results are
appended to build/mutation.jsonl, and what stands there is not tried again; --again retries what was not
noticed, after tests were added. Unnoticed mistakes that are known to be harmless stand in survivors.toml
with the reason.
"""

import argparse
import json
import os
import queue
import random
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path

from mutants import Mutant, sites
from trial import ROOT, Baseline, Copy, notice

SURVIVORS = Path(__file__).with_name("survivors.toml")
ROOMS = ("attacks", "engine", "threat", "losses.py", "rng.py", "train", "data", "evaluation")
PATHS = [f"fastadv/{room}" for room in (*ROOMS, "models/abs", "models/weights.py")]
GOAL = 0.9

Key = tuple[str, ...]


def key_of(row: dict[str, str]) -> Key:
    return row["file"], row["function"], row["before"], row["after"]


def sample(paths: list[str], count: int, seed: int) -> list[Mutant]:
    """`count` mutants drawn from all of those in the paths, in the order of the files."""
    places = [ROOT / path for path in paths]
    files = [
        file for place in places for file in (sorted(place.rglob("*.py")) if place.is_dir() else [place])
    ]
    everything = [site for file in files for site in sites(str(file.relative_to(ROOT)), file.read_text())]
    print(f"mutate: {len(everything)} mutations in {len(files)} files", flush=True)
    random.Random(seed).shuffle(everything)
    taken: dict[Key, Mutant] = {}
    for site in everything:
        if len(taken) == count:
            break
        if mutant := site.mutant():
            taken.setdefault(mutant.key, mutant)
    return sorted(taken.values(), key=lambda mutant: (mutant.file, mutant.line))


def accepted() -> set[Key]:
    """Survivors known to be harmless."""
    return {key_of(row) for row in tomllib.loads(SURVIVORS.read_text()).get("survivor", [])}


def load(results: Path) -> dict[Key, int]:
    """The stage that noticed each mutant tried so far; 0 where none did."""
    rows = [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    return {key_of(row): row["noticed"] for row in rows}


def attempt(todo: list[Mutant], results: Path, jobs: int, depth: int | None) -> dict[Key, int]:
    """Try the mutants, `jobs` at a time, and append each result as soon as it is known."""
    with tempfile.TemporaryDirectory(prefix="fastadv-mutate-") as folder:
        baseline, copies = Baseline(Copy(Path(folder) / "unchanged")), queue.Queue[Copy]()
        for job in range(jobs):
            copies.put(Copy(Path(folder) / str(job)))

        def one(mutant: Mutant) -> int:
            copy = copies.get()
            try:
                return notice(mutant, copy, baseline, depth)
            finally:
                copies.put(copy)

        noticed = {}
        results.parent.mkdir(parents=True, exist_ok=True)
        with results.open("a") as file, ThreadPoolExecutor(jobs) as pool:
            for mutant, stage in zip(todo, pool.map(one, todo), strict=True):
                noticed[mutant.key] = stage
                row = {name: value for name, value in asdict(mutant).items() if name != "source"}
                print(json.dumps(row | {"noticed": stage}, ensure_ascii=False), file=file, flush=True)
                verdict = f"stage {stage}" if stage else "SURVIVES"
                print(f"[{len(noticed)}/{len(todo)}] {verdict}  {mutant.file}:{mutant.line}", flush=True)
    return noticed


def report(mutants: list[Mutant], noticed: dict[Key, int]) -> int:
    """Print the share noticed in each room and the survivors that nobody accepted; the exit code."""
    rooms: dict[str, list[bool]] = {}
    for mutant in mutants:
        parts = Path(mutant.file).parts[1:]
        rooms.setdefault("/".join(parts[:-1]) or parts[0], []).append(noticed[mutant.key] > 0)
    for room, marks in sorted(rooms.items()):
        print(f"{sum(marks):4d} of {len(marks):4d} noticed in {room}")
    harmless = accepted()
    new = [mutant for mutant in mutants if not noticed[mutant.key] and mutant.key not in harmless]
    for mutant in new:
        print(f"\n[[survivor]]  # line {mutant.line}")
        for name, text in zip(("file", "function", "before", "after"), mutant.key, strict=True):
            print(f"{name} = {json.dumps(text, ensure_ascii=False)}")
        print('why = ""')
    share = sum(noticed[mutant.key] > 0 for mutant in mutants) / max(len(mutants), 1)
    print(f"\nmutate: {share:.1%} of {len(mutants)} mistakes noticed; {len(new)} unnoticed without a reason")
    return int(share < GOAL or bool(new))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="*", default=PATHS)
    parser.add_argument("--count", type=int, default=200, help="mistakes to draw")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), help="tried at a time")
    parser.add_argument("--depth", type=int, help="stages of tests to run; default: all")
    parser.add_argument("--again", action="store_true", help="retry what was not noticed")
    parser.add_argument("--results", type=Path, default=ROOT / "build" / "mutation.jsonl")
    options = parser.parse_args()

    mutants, noticed, harmless = (
        sample(options.paths, options.count, options.seed),
        load(options.results),
        accepted(),
    )
    again = {key for key, stage in noticed.items() if options.again and not stage and key not in harmless}
    todo = [mutant for mutant in mutants if mutant.key not in noticed or mutant.key in again]
    if todo:
        noticed |= attempt(todo, options.results, options.jobs, options.depth)
    return report(mutants, noticed)


if __name__ == "__main__":
    raise SystemExit(main())

"""`bench/run.py --base REF`: this tree against another commit's, in turns within the same minute.

    python -m bench.base

is a process that times cases with the fastadv that its path leads to, and first says where that is. Each line
that it reads, {"case": name, "seconds": s}, is answered by {"ms": median} after so many seconds of that case.
Cases use public calls alone, so that they run on older trees too.
"""

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import nn

import fastadv as fa
from bench import nets, pgd
from bench.by_hand import STEPS
from bench.clock import wall
from bench.records import ROOT, Answering

SOURCES = ("csrc", "setup.py")  # what the extension is built from
ALLOWED = 0.05  # slower by more than this is a loss
TURNS, SECONDS = 15, 0.2
SHAPE = (500, 3, 32, 32)
# net, images, radius, step size, steps
PGD: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], float, float, int]] = {
    "CNN": (nets.cnn, (64, 1, 28, 28), 0.3, 0.01, 10),
    "MLP": (nets.mlp, (512, 1, 28, 28), 0.3, 0.01, 20),
    "small CNN": (partial(nets.small_net, width=32), (64, 3, 32, 32), 8 / 255, 2 / 255, 5),
    "ResNet-18": (nets.resnet18, (8, 3, 32, 32), 8 / 255, 2 / 255, 3),
}
# names by part, as `--only` has them
CASES = {
    "ops": tuple(f"{op}_" for op in STEPS),
    "attacks": tuple(f"PGD, {net}, {precision}" for net in PGD for precision in ("fp32", "bf16")),
}


def git(*args: str) -> bytes:
    run = subprocess.run(["git", *args], cwd=ROOT, capture_output=True)
    if run.returncode:
        raise SystemExit(f"bench: git {' '.join(args)} failed: {run.stderr.decode().strip()}")
    return run.stdout


def tree(ref: str, folder: Path) -> Path:
    """A folder that holds the package of `ref` with its extension: ours where its sources are equal."""
    with tarfile.open(fileobj=io.BytesIO(git("archive", "--format=tar", ref))) as files:
        files.extractall(folder / "source", filter="data")
    if not git("diff", "--name-only", ref, "--", *SOURCES):
        (folder / "source" / "fastadv").rename(folder / "fastadv")
        for built in (ROOT / "fastadv").glob("_C*.so"):
            shutil.copy2(built, folder / "fastadv")
        return folder
    print(f"bench: building the extension of {ref}", flush=True)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder)]
    subprocess.run([*command, str(folder / "source")], check=True)
    with zipfile.ZipFile(next(folder.glob("fastadv-*.whl"))) as wheel:
        wheel.extractall(folder)
    return folder


def process(root: Path) -> Answering:
    """Start the process that times cases with the fastadv in `root`."""
    path = os.pathsep.join(map(str, (root, ROOT)))
    started = Answering([sys.executable, "-m", "bench.base"], {**os.environ, "PYTHONPATH": path}, root)
    found = Path(started.answer()["fastadv"])
    if root.resolve() not in found.resolve().parents:
        raise SystemExit(f"bench: expected fastadv of {root} to be timed, got {found}")
    return started


def compared(case: str, here: list[float], base: list[float]) -> bool:
    """Print the milliseconds of each turn of a case, compared; whether it is slower here beyond the noise.

    The noise is two standard errors of the median, as normal errors with this median deviation have them.
    """
    ratios = [a / b for a, b in zip(here, base, strict=True)]
    ratio = statistics.median(ratios)
    away = statistics.median(abs(each - ratio) for each in ratios)
    noise = 2 * 1.2533 * 1.4826 * away / len(ratios) ** 0.5
    lost = ratio - noise > 1 + ALLOWED
    print(
        f"{case:<24} here {statistics.median(here):10.3f} ms  base {statistics.median(base):10.3f} ms  "
        f"ratio {ratio:.3f} ± {noise:.3f}{'  SLOWER' * lost}",
        flush=True,
    )
    return lost


def run(ref: str, cases: Iterable[str]) -> bool:
    """Compare each case in turns, of which every second begins with the other tree; whether none is lost."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        roots = ROOT, tree(ref, Path(folder))
        here, base = both = [stack.enter_context(closing(process(root))) for root in roots]
        lost = False
        for case in cases:
            taken: dict[Answering, list[float]] = {each: [] for each in both}
            ask = json.dumps({"case": case, "seconds": SECONDS})
            for number in range(TURNS):
                for each in both if number % 2 else both[::-1]:
                    taken[each].append(float(each.ask(ask)["ms"]))
            lost |= compared(case, taken[here], taken[base])
    return not lost


def frozen_anew(given: pgd.Problem, precision: Any) -> object:
    return pgd.ours(given, fa.freeze(given.model, precision))


@cache
def prepared(case: str) -> Callable[[], object]:
    """What is timed, warmed up."""
    draw, (kind, *rest) = torch.Generator().manual_seed(0), case.split(", ")
    if rest:
        net, precision = rest
        create, shape, radius, size, steps = PGD[net]
        model, x = create(), torch.rand(shape, generator=draw)
        given = pgd.Problem(net, model, x, pgd.classes(model, x), radius, size, steps)
        way: Callable[[], object] = partial(frozen_anew, given, precision)
    else:
        x, grad = torch.rand(SHAPE, generator=draw), torch.randn(SHAPE, generator=draw)
        _, fused, radius, size = STEPS[kind.removesuffix("_")]
        way = partial(fused, x.clone(), grad, x, radius, size)
    way()
    way()
    return way


def turn(case: str, seconds: float) -> float:
    """The median milliseconds of a call, in so many seconds and one call at least."""
    way, taken = prepared(case), list[float]()
    while not taken or sum(taken) < seconds:
        taken.append(wall(way)[0])
    return 1000 * statistics.median(taken)


if __name__ == "__main__":
    print(json.dumps({"fastadv": str(fa.__file__)}), flush=True)
    for line in sys.stdin:
        print(json.dumps({"ms": turn(**json.loads(line))}), flush=True)

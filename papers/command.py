"""The command lines of the papers: arguments, progress and tables; errors are one line."""

import argparse
import io
import json
import os
import shlex
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from fastadv.card import telling
from fastadv.errors import CorruptFileError, InputError, MissingExtraError
from papers.study import Watch
from papers.text import aligned

Work = Callable[[argparse.Namespace, Watch], Iterator[Any]]
"""What a command does: it yields its result as JSON, and then prints it in words."""
PATIENCE = 2.0  # seconds of work before progress is shown
BUDGET = "seconds after which the run stops as if interrupted, and says what is left"
EPOCHS = "finished epochs are kept in {run_dir}; the same command resumes"


class Parser(argparse.ArgumentParser):
    """The command line of a paper; errors are InputErrors."""

    def __init__(self, paper: str = "", **options: Any) -> None:
        super().__init__(**{"prog": f"python -m papers.{paper}", **options})

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message}; see {self.prog} --help")


def command(made: argparse.ArgumentParser, work: Work, run_dir: str, kept: str = EPOCHS) -> None:
    """Let the parser do `work`; add the arguments that all have. `kept` is what is said of a stopped run."""
    made.set_defaults(work=work, kept=kept)
    made.add_argument("--run-dir", type=Path, default=Path(run_dir), help=f"of all results ({run_dir})")
    made.add_argument("--seed", type=partial(count, least=0), default=0, help="of everything random (0)")
    made.add_argument("--json", action="store_true", help="print one JSON document and nothing else")
    made.add_argument("--debug", action="store_true", help="print the traceback of an error")


def on_data(made: argparse.ArgumentParser) -> None:
    made.add_argument("--device", type=place, help="cpu, cuda, cuda:1; by default the GPU where there is one")
    told = "folder of the data sets; else FASTADV_DATA, else the user's cache"
    made.add_argument("--data-dir", type=Path, help=told)


def scales(made: argparse.ArgumentParser, known: Mapping[str, Any], default: str, told: str) -> None:
    made.add_argument("--scale", choices=list(known), default=default, help=f"{told} ({default})")


def place(text: str) -> torch.device:
    try:
        torch.zeros((), device=(device := torch.device(text))).item()
    except (RuntimeError, AssertionError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not there ({str(error).splitlines()[0]})") from error
    return device


def device_of(asked: argparse.Namespace) -> torch.device:
    return asked.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")


def names(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def count(text: str, least: int = 1) -> int:
    if not least <= (number := int(text)) < 2**63:
        raise argparse.ArgumentTypeError(f"expected at least {least} and less than 2^63, got {number}")
    return number


def official(data_dir: Path | None) -> Path:
    """Return the folder of the authors' weights of ABS, where data sets are."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastadv"
    return Path(data_dir or os.environ.get("FASTADV_DATA") or cache).expanduser() / "abs_official"


def say_where(written: Mapping[str, object]) -> None:
    width = max(map(len, written))
    for what, path in written.items():
        print(f"{what:<{width}}  {path}")


def print_table(title: str, cells: Sequence[Sequence[str]], notes: Sequence[str] = ()) -> None:
    print(f"{title}\n\n{aligned(cells)}\n", *notes, "", sep="\n")


class Progress:
    """What is being done, on stderr where that is a terminal, after two seconds of work."""

    def __init__(self) -> None:
        self.start, self.drawn = time.monotonic(), False

    def __call__(self, what: str, done: int, total: int) -> None:
        if sys.stderr.isatty() and time.monotonic() > self.start + PATIENCE:
            print(f"\r{what}: {done} of {total}\x1b[K", end="", file=sys.stderr, flush=True)
            self.drawn = True

    def close(self) -> None:
        if self.drawn:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def main(made: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code, 0 for success, 1 where the work failed, 2 for bad usage."""
    given = list(sys.argv[1:] if argv is None else argv)
    asked, before, received = argparse.Namespace(debug="--debug" in given), None, list[int]()

    def stop(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    try:
        made.parse_args(given, asked)
        if argv is None:
            before = signal.signal(signal.SIGTERM, stop)
        with telling(command=shlex.join([made.prog, *given])):
            return _do(asked)
    except KeyboardInterrupt:
        kept = getattr(asked, "kept", "").format(**vars(asked))
        return _fail(f"interrupted; {kept}", 128 + (received or [signal.SIGINT])[0], asked)
    except InputError as error:
        return _fail(str(error), 2, asked)
    except (CorruptFileError, OSError, FloatingPointError, MissingExtraError) as error:
        return _fail(str(error), 1, asked)
    except Exception as error:
        return _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1, asked)
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)


def _do(asked: argparse.Namespace) -> int:
    progress = Progress()
    try:
        work = asked.work(asked, progress)
        result = next(work)
    finally:
        progress.close()
    if asked.json:
        # what JSON has no number for becomes null
        plain = json.loads(json.dumps(result, default=str), parse_constant=lambda text: None)
        print(json.dumps(plain, indent=2))
    with redirect_stdout(io.StringIO() if asked.json else sys.stdout):
        return int(max([0, *work]))  # a command that prints may yield its exit code


def _fail(text: str, code: int, asked: argparse.Namespace) -> int:
    if asked.debug:
        traceback.print_exc()
    print("papers:", " ".join(text.split()), file=sys.stderr)
    return code

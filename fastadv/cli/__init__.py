"""The command line: `fastadv demo | attack | train | construct | evaluate | abs | ...`.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 an evaluation with --strict is in doubt, 4 it is below
--fail-under, 130 interrupted by Ctrl-C, 143 by SIGTERM. Errors are one line on stderr; --debug adds the
traceback.
"""

import logging
import os
import shlex
import sys
import traceback
from collections.abc import Sequence
from functools import cache
from typing import Annotated, Any

import typer

import fastadv
from fastadv._checks import meant
from fastadv._extras import unfit
from fastadv.cli._abs import abs_app
from fastadv.cli._attack import attack
from fastadv.cli._certify import certify
from fastadv.cli._construct import construct
from fastadv.cli._demo import demo
from fastadv.cli._doctor import doctor
from fastadv.cli._evaluate import evaluate
from fastadv.cli._interrupt import Interrupted, exit_code, stoppable
from fastadv.cli._merge import merge
from fastadv.cli._models import models
from fastadv.cli._output import note, show_all
from fastadv.cli._panels import Debug, add, with_panels
from fastadv.cli._train import train
from fastadv.errors import CorruptFileError, LostProcessError, MissingExtraError
from fastadv.runs.card import telling

__all__ = ["app", "main"]

EXPECTED = (CorruptFileError, OSError, FloatingPointError, LostProcessError, MissingExtraError)

MODEL = "-m small_cnn -w runs/a/model.safetensors --data digits"

app = typer.Typer(
    name="fastadv",
    help="Attacks, adversarial training and constructed data sets, on compiled kernels.",
    epilog="Example: fastadv demo",
    no_args_is_help=True,
    add_completion=False,
)
for command, example in (
    (demo, "fastadv demo --out demo"),
    (attack, f"fastadv attack {MODEL} --radius 0.1 --out adv.safetensors"),
    (train, "fastadv train -m small_cnn --data digits --recipe pgd --norm l2 --radius 0.5 --run-dir runs/a"),
    (construct, f"fastadv construct robust {MODEL} --out sets/d_r"),
    (evaluate, f"fastadv evaluate {MODEL} --radius 0.1 -a fgsm -a pgd:steps=100"),
    (certify, f"fastadv certify {MODEL} --sigma 0.25 --rounded --run-dir runs/certified"),
    (merge, "fastadv merge runs/judged --out runs/judged"),
    (models, "fastadv models --data cifar10 --norm linf"),
    (doctor, "fastadv doctor"),
):
    add(app, command, example)
app.add_typer(abs_app, name="abs")


@app.command(
    hidden=True,
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def study() -> int:
    """Say where the papers went."""
    note("the papers are beside the library: in its repository, python -m papers")
    return 2


def _version(asked: bool) -> None:
    if asked:
        print(fastadv.__version__)
        raise typer.Exit


@app.callback(add_help_option=False)
@with_panels
def _fastadv(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Attacks, adversarial training and constructed data sets, on compiled kernels."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code, 0 for success, 1 where the work failed, 2 for bad usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    logging.basicConfig(format="fastadv: %(message)s", level=logging.WARNING)
    # a model can then be named as module:function of a file in the working folder
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if argv is None:
        show_all()
    with stoppable(), telling(command=shlex.join(["fastadv", *arguments])):
        return _run(arguments)


@cache
def _command() -> Any:
    """Build the command of typer once: that takes longer than a small command."""
    return typer.main.get_command(app)


def _run(arguments: list[str]) -> int:
    debug = Debug()
    try:
        code = _command()(args=arguments, prog_name="fastadv", standalone_mode=False, obj=debug)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # whoever reads our output has closed it; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (KeyboardInterrupt, typer.Abort):
        return _fail("interrupted", exit_code(), debug)
    except Interrupted as error:
        return _fail("; ".join(["interrupted", *error.args]), exit_code(), debug)
    except Exception as error:
        return _report(error, debug)


def _report(error: Exception, debug: Debug) -> int:
    usage = getattr(error, "format_message", None)
    if usage is not None:
        context = getattr(error, "ctx", None)
        path = context.command_path if context is not None else "fastadv"
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(usage().rstrip() + "\n")
            return 2
        text = usage().replace("Invalid value: ", "").replace("Value error, ", "").rstrip().rstrip(".")
        if type(error).__name__ == "NoSuchOption" and context is not None:
            flags = [flag for each in context.command.params for flag in each.opts]
            text = f"no option {error.option_name}{meant(error.option_name, flags)}"  # type: ignore[attr-defined]
        stop = "" if text.endswith("?") else "."
        return _fail(f"{text}{stop} Try '{path} --help'.", getattr(error, "exit_code", 2), debug)
    if isinstance(error, EXPECTED):
        return _fail(str(error), 1, debug)
    if "operator torchvision::" in str(error):  # a model of the user's imports it
        return _fail(unfit(error), 1, debug)
    return _fail(f"{type(error).__name__}: {error} (--debug shows where)", 1, debug)


def _fail(text: str, code: int, debug: Debug) -> int:
    if debug.on:
        traceback.print_exc()
    print("fastadv:", " ".join(text.split()), file=sys.stderr)
    return code

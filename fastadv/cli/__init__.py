"""The command line: `fastadv demo | train | construct | evaluate | doctor`.

Exit codes: 0 done, 1 the work failed, 2 wrong usage, 3 an evaluation with --strict is in doubt, 4 it is below
--fail-under, 130 interrupted by Ctrl-C, 143 by SIGTERM. Errors are one line on stderr; --debug adds the
traceback.
"""

import logging
import os
import re
import shlex
import sys
import traceback
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Annotated, Any, cast

import typer

import fastadv
from fastadv._checks import meant
from fastadv._extras import unfit
from fastadv.card import telling
from fastadv.cli._construct import construct
from fastadv.cli._demo import demo
from fastadv.cli._doctor import doctor
from fastadv.cli._evaluate import evaluate
from fastadv.cli._interrupt import Interrupted, stoppable
from fastadv.cli._output import note
from fastadv.cli._signature import add
from fastadv.cli._train import train
from fastadv.errors import CorruptFileError, LostProcessError, MissingExtraError

__all__ = ["app", "main"]

EXPECTED = (CorruptFileError, OSError, FloatingPointError, LostProcessError, MissingExtraError)

MODEL = "-m small_cnn -w runs/a/model.safetensors --data digits"

app = typer.Typer(
    name="fastadv",
    help="Attacks, adversarial training and constructed data sets, on compiled kernels.",
    epilog="Example: fastadv demo",
    no_args_is_help=True,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command, example in (
    (demo, "fastadv demo --out demo"),
    (train, "fastadv train -m small_cnn --data digits --recipe pgd --norm l2 --radius 0.5 --run-dir runs/a"),
    (construct, f"fastadv construct robust {MODEL} --out sets/d_r"),
    (evaluate, f"fastadv evaluate {MODEL} --radius 0.1 -a fgsm -a pgd:steps=100"),
    (doctor, "fastadv doctor"),
):
    add(app, command, example)


def _version(asked: bool) -> None:
    if asked:
        print(fastadv.__version__)
        raise typer.Exit


@app.callback()
def _before(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None: ...


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments; None takes those of the process.

    Returns:
        The exit code, 0 for success, 1 where the work failed, 2 for bad usage.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("fastadv: %(message)s"))
    logging.basicConfig(handlers=[handler], level=logging.WARNING)
    # A model can then be named as module:function of a file in the working folder
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    if argv is None:
        for stream in (sys.stdout, sys.stderr):  # whose encoding may lack a character
            cast(TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    with stoppable(), telling(command=shlex.join(["fastadv", *arguments])):
        return _run(arguments, debug="--debug" in arguments)


def _run(arguments: list[str], debug: bool) -> int:
    if debug:
        logging.getLogger().setLevel(logging.INFO)
    try:
        code = typer.main.get_command(app)(args=arguments, prog_name="fastadv", standalone_mode=False)
        sys.stdout.flush()
        return code if isinstance(code, int) else 0
    except BrokenPipeError:
        # Whoever reads our output has closed it; Python would complain again when it flushes at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except (Exception, KeyboardInterrupt) as error:
        if type(error).__name__ == "NoArgsIsHelpError":
            sys.stderr.write(f"{error}\n")
            return 2
        if debug:
            traceback.print_exc()
        code, text = _reason(error)
        note(text)
        return code


def _reason(error: Any) -> tuple[int, str]:
    """Return the exit code of an error, and what to say of it."""
    if isinstance(error, KeyboardInterrupt):  # before the command begins, or after its end
        error = Interrupted(error)
    if isinstance(error, Interrupted):
        return error.code, str(error)
    if hasattr(error, "format_message"):  # wrong usage
        context = getattr(error, "ctx", None)
        text = error.format_message().replace("Invalid value: ", "").rstrip().rstrip(".")
        if type(error).__name__ == "NoSuchOption" and context is not None:
            flags = [flag for option in context.command.params for flag in option.opts]
            text = f"no option {error.option_name}{meant(error.option_name, flags)}"
        if context is not None:
            text = _in_options(text, context.command.params)
        path = "fastadv" if context is None else context.command_path
        return error.exit_code, f"{text}{'' if text.endswith('?') else '.'} Try '{path} --help'."
    if isinstance(error, EXPECTED):
        return 1, str(error)
    if "operator torchvision::" in str(error):  # a model of the user's imports it
        return 1, unfit(error)
    return 1, f"{type(error).__name__}: {error} (--debug shows where)"


def _in_options(text: str, options: Sequence[Any]) -> str:
    """Write arguments of the library, as in "pass run_dir=" or "resume=True", as the options of a command."""
    for option in options:
        flag = option.opts[0]
        text = re.sub(rf"^{option.name}: ", f"{flag}: ", text)
        text = re.sub(rf"(?<!\S){option.name}=(True\b|(?=[\s,;.]|$))", flag, text)
        text = re.sub(rf"(?<!\S){option.name}=", f"{flag} ", text)
    return text

"""What surrounds the work of a command: signals that stop it, and the processes of torchrun that share it."""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from datetime import timedelta
from functools import wraps
from typing import Any

import torch
import torch.distributed as dist
import typer

from fastadv.errors import InputError, LostProcessError
from fastadv.runs.processes import EVERYWHERE

# The signals that stop a command, with what Python does about them by itself
STOPS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
# A process waits so long for another: an attack on a batch may take hours; torchrun ends those left alone
PATIENCE = timedelta(days=1)
_received: list[int] = []
_patient: list[bool] = []  # one for each `after_the_step`


class Interrupted(Exception):
    """The user stopped the command; the text, if any, says what was kept and how to resume."""


@contextmanager
def interruptible(kept: Callable[[], str] | str) -> Iterator[None]:
    """Turn a KeyboardInterrupt inside into an Interrupted that carries `kept`."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(kept if isinstance(kept, str) else kept()) from None


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise KeyboardInterrupt inside, as Ctrl-C does; what the caller handles is left to it."""
    main = threading.current_thread() is threading.main_thread()
    ours = {number: usual for number, usual in STOPS.items() if main and signal.getsignal(number) == usual}
    for number in ours:
        signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, usual in ours.items():
            signal.signal(number, usual)
        _received.clear()


@contextmanager
def after_the_step() -> Iterator[None]:
    """Let the first signal inside wait for `check_stop`, and a second one stop at once."""
    _patient.append(True)
    try:
        yield
    finally:
        _patient.pop()


def _stop(number: int, frame: object) -> None:
    _received.append(number)
    if not _patient or len(_received) > 1:
        raise KeyboardInterrupt
    sys.stderr.write("fastadv: stopping after this step; once more stops at once\n")


def check_stop() -> None:
    """Stop again where a signal has told the command to: Python drops an exception out of a finalizer."""
    if _received:
        raise KeyboardInterrupt


def exit_code() -> int:
    """Return the exit code of a stopped command, by the custom of shells: 130 for Ctrl-C, 143 for SIGTERM."""
    return 128 + (_received[-1] if _received else signal.SIGINT)


def together(command: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
    """Run `command`, which takes a `machine`, in the process group of torchrun if that started it."""

    @wraps(command)
    def called(*, machine: Any, **arguments: Any) -> Iterator[Any]:
        with _joined(machine.device) as joined:
            yield from command(machine=replace(machine, device=joined), **arguments)

    return called


@contextmanager
def _joined(device: str | None) -> Iterator[str | None]:
    """Join the process group. Yields the device; only the first process prints, or one with its own error."""
    if "LOCAL_RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield device
        return
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    backend = "gloo"
    if device == "cuda" or (device is None and torch.cuda.is_available()):
        if local >= torch.cuda.device_count():
            raise InputError(
                f"processes: expected at most one for each of {torch.cuda.device_count()} GPUs, "
                f"got process {local}, counted from 0; start fewer, or pass --device cpu"
            )
        backend, device = "nccl", f"cuda:{local}"
        torch.cuda.set_device(device)
    dist.init_process_group(backend, timeout=PATIENCE)
    with ExitStack() as stack:
        stack.callback(dist.destroy_process_group)
        if rank:
            nowhere = stack.enter_context(open(os.devnull, "w"))
            stack.enter_context(redirect_stdout(nowhere))
            stack.enter_context(redirect_stderr(nowhere))
            stack.callback(logging.disable, logging.root.manager.disable)
            logging.disable(logging.WARNING)
        try:
            yield device
        except Exception as error:
            if (rank and _said_by_first(error)) or (local and hasattr(error, "format_message")):
                raise typer.Exit(exit_code() if isinstance(error, Interrupted) else 1) from None
            raise


def _said_by_first(error: BaseException) -> bool:
    """Return whether the first process ends with the same error, or with one that tells as much."""
    notes = [*getattr(error, "__notes__", ()), *getattr(error.__cause__, "__notes__", ())]
    return EVERYWHERE in notes or isinstance(error, Interrupted | LostProcessError | FloatingPointError)

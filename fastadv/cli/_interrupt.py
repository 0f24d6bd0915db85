"""What surrounds the work of a command: signals that stop it, and the processes of torchrun that share it."""

import logging
import os
import signal
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

# A process waits so long for another: an attack on a batch may take hours; torchrun ends those left alone
PATIENCE = timedelta(days=1)


class Terminated(KeyboardInterrupt):
    """SIGTERM, which stops a command as Ctrl-C does."""


class Interrupted(Exception):
    """The user stopped the command; its text says what was kept, its code which signal it was."""

    def __init__(self, stop: KeyboardInterrupt, *kept: str) -> None:
        super().__init__("; ".join(["interrupted", *kept]))
        # by the custom of shells
        self.code = 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


@contextmanager
def interruptible(kept: Callable[[], str] | str) -> Iterator[None]:
    """Turn a KeyboardInterrupt inside into an Interrupted that carries `kept`."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(stop, kept if isinstance(kept, str) else kept()) from None


def _terminate(number: int, frame: object) -> None:
    raise Terminated


@contextmanager
def stoppable() -> Iterator[None]:
    """Let SIGTERM raise Terminated inside, unless the caller handles it."""
    main = threading.current_thread() is threading.main_thread()
    ours = main and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


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
            if rank and _said_by_first(error):
                raise typer.Exit(getattr(error, "code", 1)) from None
            raise


def _said_by_first(error: BaseException) -> bool:
    """Return whether the first process ends with the same error, or with one that tells as much."""
    notes = [*getattr(error, "__notes__", ()), *getattr(error.__cause__, "__notes__", ())]
    alike = Interrupted | LostProcessError | FloatingPointError | typer.BadParameter
    return EVERYWHERE in notes or isinstance(error, alike)

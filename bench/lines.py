"""A process that answers lines by lines of JSON, so that several take turns."""

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.records import ROOT, Row


class Answering:
    """A process that reads lines and answers each by one line of JSON."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path = ROOT) -> None:
        self._process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def ask(self, line: str) -> Row:
        """Send a line, and wait for its answer."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has stopped, which its missing answer tells
        return self.answer()

    def answer(self) -> Row:
        """Wait for an answer, the first one unasked where the process begins by one."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit("bench: a process that times stopped; its error stands above")
        found: Row = json.loads(line)
        return found

    def close(self) -> None:
        """Let the process end, which it does where no more lines come."""
        self._process.communicate()

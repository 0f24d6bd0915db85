"""The most memory that a call takes."""

import sys
from pathlib import Path

import torch

MIB = 2**20


class Peak:
    """How much memory is taken at most, from now on: of CUDA what PyTorch gives out, else the resident set.

    The resident set is told on Linux alone. Another `Peak` of the device begins anew for both.
    """

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.device = torch.device(device)
        self._before: int | None = None
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
            self._before = torch.cuda.memory_allocated(self.device)
        elif sys.platform.startswith("linux"):
            try:
                before = _status("VmRSS")
                Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # what sets VmHWM back
            except (OSError, StopIteration):  # a container may forbid it
                return
            self._before = before

    def read(self) -> int | None:
        """Return the bytes taken at most since; None where the system does not tell."""
        if self._before is None:
            return None
        on_cuda = self.device.type == "cuda"
        most = torch.cuda.max_memory_allocated(self.device) if on_cuda else _status("VmHWM")
        return max(most - self._before, 0)


def _status(name: str) -> int:
    """Return a line of /proc/self/status, in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) * 1024

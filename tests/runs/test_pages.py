"""Pages of freed memory stay with the process: all in commands, in a library those of usual activations."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

import fastadv as fa
from fastadv.runs import pages
from tests.engine.nets import convnet, images

on_glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has these options")
NETS = """
import resource, torch
import fastadv as fa
torch.set_num_threads(1)

def attacked(name, side, channels, **options):
    torch.manual_seed(0)
    model = fa.models.create(name, shape=(channels, side, side), **options).eval()
    frozen, x = fa.freeze(model), torch.rand(48, channels, side, side)
    y, faults = model(x).argmax(1), []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        fa.attacks.pgd(frozen, x, y, fa.Linf(0.1), steps=2, stop_early=False)
        faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return min(faults[1:])

small = dict(name="small_cnn", side=32, channels=3, width=32)
fresh = attacked(**small)
for other in (dict(name="softmax", side=28, channels=1), dict(name="resnet18", side=16, channels=3, width=8)):
    attacked(**other)
print(fresh, attacked(**small))
"""


VARIABLES = ("FASTADV_KEEP_PAGES", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def run(code: str, **environment: str) -> list[int]:
    # a process of its own, since what was allocated before decides which blocks malloc can reuse
    command = [sys.executable, "-c", code]
    plain = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(fa.__file__).parent.parent)}
    made = subprocess.run(command, capture_output=True, text=True, check=True, env=plain | environment)
    return [int(each) for each in made.stdout.split()]


@pytest.mark.slow
@on_glibc
def test_neither_the_first_net_nor_the_fourth_faults_in_its_pages_again() -> None:
    """An activation of the small CNN has 1,536 pages; a pass has a dozen."""
    fresh, fourth = run(NETS)
    assert fresh < 100
    assert fourth < 100


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("FASTADV_KEEP_PAGES", "0"),
        ("MALLOC_TRIM_THRESHOLD_", "131072"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_max=9"),
    ],
)
def test_variables_say_what_is_kept(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    told: list[object] = []
    monkeypatch.setattr(pages, "_keep", lambda options: told.append(options))
    assert fa.freeze(convnet().eval())(images()[0]).shape == (6, 5)
    assert told == [((-3, 1 << 28), (-1, 1 << 30))]
    monkeypatch.setenv(name, value)
    fa.freeze(convnet().eval())
    assert len(told) == 1

"""Pages of freed memory stay with the process: all in commands, in a library those of usual activations."""

import pytest

import fastadv as fa
from fastadv.runs import pages
from tests.engine.nets import convnet, images

VARIABLES = ("FASTADV_KEEP_PAGES", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


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

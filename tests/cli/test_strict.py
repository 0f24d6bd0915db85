"""The verdict in `fastadv evaluate`: the last line, --strict, --no-indicators."""

import re

import pytest

pytestmark = pytest.mark.slow
LINE = "-n 60 -a pgd:steps=300,stop_early=false --radius 0.05"


def test_the_last_line_is_the_verdict(fastadv, net):
    done = fastadv(f"evaluate {net} {LINE} --strict")
    assert re.fullmatch(r"No sign of masking \(\d+ samples probed\)", done.out.splitlines()[-1])
    assert "masking" not in fastadv(f"evaluate {net} {LINE} --no-indicators").out


def test_doubt_is_exit_code_3_where_asked(fastadv, net, refused):
    line = f"evaluate {net} -n 20 -a pgd:steps=20,step_size=0.0001 --radius 0.02"
    fastadv(line)
    done = fastadv(f"{line} --strict", code=3)
    verdict = done.out.splitlines()[-1]
    assert verdict.startswith("Do not trust: incomplete")
    assert done.err == ""
    assert fastadv(f"{line} --strict --json", code=3).json["measured"]["indicators"]["verdict"] == verdict
    few = fastadv(f"evaluate {net} -n 4 -a pgd:steps=300,stop_early=false --radius 0.05 --strict", code=3)
    assert few.out.splitlines()[-1].startswith("Not known, nothing flagged so ")
    refused(f"{line} --strict --no-indicators", "--strict is about the indicators")

"""Probes agree within rounding; a stored run and the one asked for are compared entry by entry."""

from pathlib import Path

import pytest
import torch

from fastadv.answers import probe
from fastadv.errors import InputError
from fastadv.runs.identity import check_same, plain

OUTPUTS = torch.randn(8, 5, generator=torch.Generator().manual_seed(3))


def agree(first, second):
    try:
        check_same(Path("file"), plain({"model": first}), {"model": second})
    except InputError:
        return False
    return True


def test_probes_agree_within_rounding_and_not_beyond():
    base = probe(OUTPUTS, OUTPUTS)
    noise = torch.randn(OUTPUTS.shape, generator=torch.Generator().manual_seed(4))
    assert agree(base, probe(OUTPUTS + 1e-4 * noise, OUTPUTS + 1e-4 * noise))
    assert agree(base, probe(OUTPUTS.double(), OUTPUTS.double()))
    flipped = OUTPUTS.flip(0), OUTPUTS.flip(1)
    for other in (OUTPUTS + 0.02 * noise, 2 * OUTPUTS, -OUTPUTS, *flipped):
        assert not agree(base, probe(other, other))
    assert agree(base, probe(OUTPUTS[:7], OUTPUTS[:7]))  # as far as both have rows
    one = OUTPUTS.clone()
    one[3, 2] += 0.1
    assert not agree(base, probe(one, one))
    assert agree(
        probe(OUTPUTS, OUTPUTS, torch.bfloat16), probe(OUTPUTS + 0.005 * noise, OUTPUTS + 0.005 * noise)
    )


@pytest.mark.parametrize(
    ("dtype", "share"), [(None, 1e-3), (torch.float32, 1e-3), (torch.float16, 0.05), (torch.bfloat16, 0.05)]
)
def test_a_probe_may_differ_by_a_fixed_share_of_the_spread(dtype, share):
    """Of outputs that are all 5, the spread is 5."""

    def outputs(shift):
        return torch.full((4, 1), 5.0 * (1 + shift), dtype=torch.float64)

    base = probe(outputs(0), outputs(0), dtype)
    assert base == {"values": [5.0] * 4, "within": pytest.approx(5 * share)}
    assert agree(base, probe(outputs(0.9 * share), outputs(0.9 * share), dtype))
    assert not agree(base, probe(outputs(1.2 * share), outputs(1.2 * share), dtype))
    assert probe(outputs(0), outputs(0.9 * share), dtype) == base
    assert probe(outputs(0), outputs(1.1 * share), dtype)["values"] == "random"


def test_probes_of_outputs_that_are_not_finite():
    broken = OUTPUTS.clone()
    broken[2, 1] = torch.nan
    assert agree(probe(broken, broken), probe(broken, broken))
    assert not agree(probe(broken, broken), probe(OUTPUTS, OUTPUTS))
    assert not agree(probe(OUTPUTS, OUTPUTS), probe(broken, broken))
    nothing = torch.full((2, 3), torch.nan)
    assert agree(probe(nothing, nothing), probe(nothing, nothing))


def test_differences_are_named_by_their_places_and_the_first_three_told():
    stored = {"a": {"b": 1, "c": {"d": 2, "e": 3}}, "f": probe(OUTPUTS, OUTPUTS), "h": "old", "i": 1}
    changed = {"a": {"b": 1, "c": {"d": 5, "e": 3}}, "f": probe(-OUTPUTS, -OUTPUTS), "h": "new", "i": 2}
    with pytest.raises(InputError) as caught:
        check_same(Path("file"), plain(stored), stored | changed)
    said = str(caught.value)
    assert "another a.c.d (2 there, 5 here), another f ([" in said
    assert "another h (old there, new here) and 1 more; resume" in said
    attacks = {"attacks": [["pgd", {"steps": 3, "radius": 0.1}]]}
    with pytest.raises(InputError, match=r"another attacks\[0\]\[1\]\.radius \(0\.1 there, 0\.2 here"):
        check_same(Path("file"), attacks, {"attacks": [["pgd", {"steps": 3, "radius": 0.2}]]})

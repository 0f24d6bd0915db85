"""philox against the published vectors, through a generator written with Python integers."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fastadv.ops.philox import philox
from tests.refusals import refuses

WORD = 0xFFFFFFFF


def block(counter, key):
    """Philox 4x32-10 of one counter and key (Salmon et al. 2011, section 3.3)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (second >> 32) ^ c1 ^ k0, second & WORD, (first >> 32) ^ c3 ^ k1, first & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return [c0, c1, c2, c3]


@pytest.mark.parametrize(
    ("counter", "key", "expected"),
    [
        ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        ([WORD] * 4, [WORD] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
        (
            [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
            [0xA4093822, 0x299F31D0],
            [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
        ),
    ],
    ids=["zeros", "ones", "pi"],
)
def test_the_oracle_gives_the_published_vectors(counter, key, expected):
    """The known answers of the authors' Random123 library for philox4x32 with 10 rounds."""
    assert block(counter, key) == expected


@given(st.integers(0, 2**63 - 1), st.integers(0, 2**63 - 1), st.integers(0, WORD), st.integers(0, 3000))
def test_any_element_equals_the_oracle(seed, sample, draw, element):
    counter = [element // 4, draw, sample & WORD, sample >> 32]
    expected = block(counter, [seed & WORD, (seed >> 32) & WORD])[element % 4]
    assert int(philox(torch.tensor([sample]), element + 1, "bits", seed, draw)[0, -1]) == expected


def test_signs_are_the_bits_of_words_in_order():
    ids = torch.tensor([3, 2**40])
    signs, words = philox(ids, 3001, "sign", 7, 8), philox(ids, 94, "bits", 7, 8)
    for row in range(2):
        number = sum(int(word) << 32 * place for place, word in enumerate(words[row]))
        assert signs[row].tolist() == [1 if number >> bit & 1 else -1 for bit in range(3001)]


def test_a_long_row_equals_its_parts():
    ids = torch.tensor([11])
    for kind in ("bits", "uniform", "normal", "sign"):
        row = philox(ids, 300_001, kind, 5, 6)
        for count in (1, 63, 64, 65, 1000):
            assert torch.equal(philox(ids, count, kind, 5, 6), row[:, :count])


def test_refusals():
    ids, bits = torch.arange(3), "bits"
    refuses("draw: expected an integer", philox, ids, 4, bits, 0, 2**32 - 2, 3)
    refuses("kind: expected one of bits", philox, ids, 4, "gamma")

"""noisy_copies against Python integers, and what it and count_votes_ refuse."""

import pytest
import torch

from fastadv.errors import InputError
from fastadv.ops.count_votes import count_votes_
from fastadv.ops.noisy_copies import noisy_copies, reference
from fastadv.ops.philox import philox
from tests.refusals import refuses


def table_of(width: int, seed: int = 0) -> torch.Tensor:
    draw = torch.Generator().manual_seed(seed)
    threshold = torch.randint(1 << 47, (1 << width,), generator=draw)
    return threshold << 16 | torch.randint(1 << width, (1 << width,), generator=draw)


def by_hand(levels, words, table, center, step):
    width, out = len(table).bit_length() - 1, []
    for e, level in enumerate(levels):
        bits = words[2 * e] << 32 | words[2 * e + 1]
        column = bits >> (64 - width)
        entry = table[column]
        rest = (bits << width & (1 << 64) - 1) >> 17
        out.append((level + (column if rest < entry >> 16 else entry & 0xFFFF) - center) * step)
    return out


@pytest.mark.parametrize("width", [1, 7, 16])
def test_every_bit_of_a_choice_counts(width):
    """Each element's own bits are the threshold of its column, and then the number below."""
    levels, ids, draws = torch.zeros(1, 101, dtype=torch.int32), torch.tensor([2**35 + 3]), torch.tensor([4])
    words, seed, size = philox(ids, 202, "bits", 5, 4)[0].tolist(), 5, 1 << width
    for more in (0, 1):
        table = [(size - 1 - column) for column in range(size)]
        for e in range(101):
            bits = words[2 * e] << 32 | words[2 * e + 1]
            column = bits >> (64 - width)
            table[column] = ((bits << width & (1 << 64) - 1) >> 17) + more << 16 | (size - 1 - column)
        expected = torch.tensor([by_hand([0] * 101, words, table, 0, 1.0)])
        entries, one = torch.tensor(table), torch.tensor([1])
        assert torch.equal(noisy_copies(levels, one, ids, draws, entries, 0, 1.0, seed)[0], expected)
        written = reference(levels, torch.tensor([0]), ids, draws, entries, 0, 1.0, seed)
        assert torch.equal(written, expected)


def test_refusals():
    levels, one, table = torch.zeros(2, 3, dtype=torch.int32), torch.ones(2, dtype=torch.int64), table_of(2)
    rest = 0, 1.0
    refuses("levels", noisy_copies, levels.float(), one, one, one, table, *rest)
    refuses("counts", noisy_copies, levels, one[:1], one, one, table, *rest)
    refuses("ids", noisy_copies, levels, one, one.int(), one, table, *rest)
    refuses("table", noisy_copies, levels, one, one, one, table[:3], *rest)
    refuses("table", noisy_copies, levels, one, one, one, table.float(), *rest)
    refuses("seed", noisy_copies, levels, one, one, one, table, *rest, -1)


def test_votes_refuse_what_does_not_fit():
    votes, rows = torch.zeros(2, 3, dtype=torch.int32), torch.tensor([0, 1])
    for given in ((votes.long(), torch.zeros(2, 3), rows), (votes, torch.zeros(2, 4), rows),
                  (votes, torch.zeros(2, 3), rows.int())):  # fmt: skip
        with pytest.raises(InputError):
            count_votes_(*given)

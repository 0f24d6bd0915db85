"""nearest_prototype: exact distances, ties, cancellation, special values, batch invariance and bad input."""

import pytest
import torch

from fastadv.ops import nearest_prototype
from tests.refusals import refuses


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def brute(x, prototypes, bias):
    return torch.stack([(row - prototypes.double()).square().sum(1) for row in x.double()]) + bias.double()


def assert_nearest(x, prototypes, bias=None):
    distance, index = nearest_prototype(x, prototypes, bias)
    expected = brute(x, prototypes, torch.zeros(len(prototypes)) if bias is None else bias)
    assert torch.equal(index, expected.argmin(dim=1))
    torch.testing.assert_close(distance, expected.amin(dim=1).float(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", [1, 3, 16, 17, 1025])
@pytest.mark.parametrize(("batch", "count"), [(1, 1), (5, 3), (131, 70), (3, 1100)])
def test_equals_differences_in_double(batch, count, size):
    assert_nearest(draw(batch, size, seed=1), draw(count, size, seed=2), draw(count, seed=3))


def test_where_the_product_form_holds_no_digit():
    """At an offset of 1e6 it is off by 1e6, the distances differ by one, or beside a bias by less."""
    assert_nearest(*((8 * draw(count, 64, seed=count)).round() + 1e6 for count in (20, 300)))
    for bias in (1e6, -1e6):
        assert_nearest(draw(20, 12), draw(900, 12, seed=1), torch.full((900,), bias))
    # prototypes that differ from one another in the last place of one value
    x = draw(4, 200)
    near = x.repeat_interleave(64, 0)
    for number, row in enumerate(near):
        row[number % 200] = torch.nextafter(row[number % 200], torch.tensor(2.0))
    assert_nearest(x, near[torch.randperm(256, generator=torch.Generator().manual_seed(3))] + 2.0**-10)


def test_ties_go_to_the_lower_index():
    x, once = draw(9, 33), draw(700, 33, seed=1)
    _, index = nearest_prototype(x, torch.cat([once, once]))
    assert torch.equal(index, nearest_prototype(x, once)[1])
    _, index = nearest_prototype(x, once[:1].expand(900, 33).contiguous())
    assert bool((index == 0).all())


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_the_margin_covers_a_chain_of_roundings_that_all_go_one_way(lanes):
    """The last prototype is x itself; the product form, off by 2e-3, says that x is farther."""
    x = torch.full((1, 1024), 2.0**-12)  # their products, 2^-24, round away beside a sum of 1
    x[0, :lanes] = 1.0
    prototypes = torch.full((12, 1024), 9.0)
    prototypes[0] = x
    prototypes[0, 0] -= 2.0**-12
    prototypes[11] = x
    distance, index = nearest_prototype(x, prototypes)
    assert (int(index), float(distance)) == (11, 0.0)


def test_nan_is_least():
    x, prototypes = draw(5, 20), draw(600, 20, seed=1)
    x[2, 3] = float("nan")
    distance, index = nearest_prototype(x, prototypes)
    assert distance.isnan().tolist() == [False, False, True, False, False]
    assert index[2] == 0
    prototypes[555, 0] = float("nan")
    distance, index = nearest_prototype(x[:2], prototypes)
    assert bool(distance.isnan().all())
    assert index.tolist() == [555, 555]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.rand(3, 2, 2), torch.rand(4, 4)), r"x: expected floating rows \[B, D\]"),
        ((torch.rand(3, 4), torch.rand(5, 3)), r"prototypes: expected \[S, 4\]"),
        ((torch.rand(3, 4), torch.rand(5, 4), torch.rand(4)), r"bias: expected \(5,\)"),
        ((torch.rand(3, 4), torch.rand(5, 4).double()), "prototypes: expected torch.float32"),
    ],
)
def test_bad_input_is_named(args, message):
    refuses(message, nearest_prototype, *args)

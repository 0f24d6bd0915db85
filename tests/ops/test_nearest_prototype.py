"""nearest_prototype: exact distances, ties, cancellation, special values, batch invariance and bad input."""

import pytest
import torch

from fastadv.errors import InputError
from fastadv.ops import nearest_prototype


def draw(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


def brute(x, prototypes, bias):
    """[B, S] in float64, by differences."""
    return torch.stack([(row - prototypes.double()).square().sum(1) for row in x.double()]) + bias.double()


@pytest.mark.parametrize("size", [1, 3, 16, 17, 1025])
@pytest.mark.parametrize(("batch", "count"), [(1, 1), (5, 3), (131, 70), (3, 1100)])
def test_equals_differences_in_double(batch, count, size):
    x, prototypes, bias = draw(batch, size, seed=1), draw(count, size, seed=2), draw(count, seed=3)
    distance, index = nearest_prototype(x, prototypes, bias)
    expected = brute(x, prototypes, bias)
    assert torch.equal(index, expected.argmin(dim=1))
    torch.testing.assert_close(distance, expected.amin(dim=1).float(), rtol=1e-6, atol=0)


def test_without_bias_a_row_finds_itself():
    prototypes = draw(500, 40)
    distance, index = nearest_prototype(prototypes, prototypes)
    assert torch.equal(index, torch.arange(500))
    assert bool((distance == 0).all())


def test_ties_go_to_the_lower_index():
    x, once = draw(9, 33), draw(700, 33, seed=1)
    twice = torch.cat([once, once])
    _, index = nearest_prototype(x, twice)
    assert torch.equal(index, nearest_prototype(x, once)[1])
    _, index = nearest_prototype(x, once[:1].expand(900, 33).contiguous())
    assert bool((index == 0).all())


@pytest.mark.parametrize("offset", [1e3, 1e6])
def test_distances_far_below_the_rounding_of_the_product_form(offset):
    """At an offset of 1e6 only exact differences tell the prototypes apart.

    The product form is off by 1e6 and more, while the distances differ by one or so.
    """
    x = (draw(20, 64) * 8).round() + offset
    prototypes = (draw(300, 64, seed=1) * 8).round() + offset
    distance, index = nearest_prototype(x, prototypes)
    expected = brute(x, prototypes, torch.zeros(300))
    assert torch.equal(index, expected.argmin(dim=1))
    assert torch.equal(distance.double(), expected.amin(dim=1))


@pytest.mark.parametrize("scale", [1e-30, 1e-15, 1e15])
def test_extreme_scales(scale):
    x, prototypes = draw(7, 50) * scale, draw(90, 50, seed=1) * scale
    _, index = nearest_prototype(x, prototypes)
    assert torch.equal(index, brute(x, prototypes, torch.zeros(90)).argmin(dim=1))


@pytest.mark.parametrize("lanes", [4, 8, 16])
def test_the_margin_covers_a_chain_of_roundings_that_all_go_one_way(lanes):
    """Every multiply-add of a lane after its first loses half an ulp.

    The last prototype is x itself. It must still be tried, although the first is almost as near and the
    product form, off by 2e-3, says that x is farther.
    """
    x = torch.full((1, 1024), 2.0**-12)  # their products, 2^-24, round away beside a sum of 1
    x[0, :lanes] = 1.0
    prototypes = torch.full((12, 1024), 9.0)
    prototypes[0] = x
    prototypes[0, 0] -= 2.0**-12
    prototypes[11] = x
    distance, index = nearest_prototype(x, prototypes)
    assert (int(index), float(distance)) == (11, 0.0)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_near_ties_under_large_biases(sign):
    """Beside a bias of 1e6 float32 resolves 0.06; the distances differ by less."""
    x, prototypes = draw(20, 12), draw(900, 12, seed=1)
    bias = torch.full((900,), sign * 1e6)
    _, index = nearest_prototype(x, prototypes, bias)
    assert torch.equal(index, brute(x, prototypes, bias).argmin(dim=1))


def test_near_ties_one_ulp_apart():
    """Prototypes that differ from one another in the last place of one value."""
    x = draw(4, 200)
    near = x.repeat_interleave(64, 0)
    for number, row in enumerate(near):
        row[number % 200] = torch.nextafter(row[number % 200], torch.tensor(2.0))
    prototypes = near[torch.randperm(256, generator=torch.Generator().manual_seed(3))] + 2.0**-10
    expected = brute(x, prototypes, torch.zeros(256))
    assert torch.equal(nearest_prototype(x, prototypes)[1], expected.argmin(dim=1))


def test_classes_are_searched_apart():
    x, bank, bias = draw(6, 50), draw(4, 300, 50, seed=1), draw(4, 300, seed=2)
    distance, index = nearest_prototype(x, bank, bias)
    for k in range(4):
        own = nearest_prototype(x, bank[k], bias[k])
        assert torch.equal(distance[:, k], own[0])
        assert torch.equal(index[:, k], own[1])
    part = nearest_prototype(x, bank[:, 100:200], bias[:, 100:200])
    assert torch.equal(
        part[1], nearest_prototype(x, bank[:, 100:200].contiguous(), bias[:, 100:200].contiguous())[1]
    )


def test_a_result_does_not_depend_on_its_batch():
    x, prototypes = draw(300, 20), draw(1000, 20, seed=1)
    distance, index = nearest_prototype(x, prototypes)
    for row in (0, 7, 128, 299):
        alone = nearest_prototype(x[row : row + 1], prototypes)
        assert torch.equal(alone[0][0], distance[row])
        assert torch.equal(alone[1][0], index[row])


def test_nan_is_least_and_stays_in_its_row():
    x, prototypes = draw(5, 20), draw(600, 20, seed=1)
    clean = nearest_prototype(x, prototypes)
    x[2, 3] = float("nan")
    distance, index = nearest_prototype(x, prototypes)
    assert bool(distance[2].isnan())
    assert index[2] == 0
    rest = torch.tensor([0, 1, 3, 4])
    assert torch.equal(distance[rest], clean[0][rest])
    prototypes[555, 0] = float("nan")
    distance, index = nearest_prototype(x[rest], prototypes)
    assert bool(distance.isnan().all())
    assert bool((index == 555).all())


def test_infinite_values():
    x, prototypes = draw(3, 8), draw(40, 8, seed=1)
    x[1, 0] = float("inf")
    prototypes[0, 2] = float("inf")
    distance, index = nearest_prototype(x, prototypes)
    assert distance[1] == float("inf")
    assert index[1] == 0
    expected = brute(x[::2], prototypes[1:], torch.zeros(39))
    assert torch.equal(index[::2], 1 + expected.argmin(dim=1))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((torch.rand(3, 2, 2), torch.rand(4, 4)), r"x: expected floating rows \[B, D\]"),
        ((torch.rand(3, 4), torch.rand(5, 3)), r"prototypes: expected \[S, 4\]"),
        ((torch.rand(3, 4), torch.rand(0, 4)), "with S >= 1"),
        ((torch.rand(3, 4), torch.rand(5, 4), torch.rand(4)), r"bias: expected \(5,\)"),
        ((torch.rand(3, 4), torch.rand(5, 4).double()), "prototypes: expected torch.float32"),
    ],
)
def test_bad_input_is_named(args, message):
    with pytest.raises(InputError, match=message):
        nearest_prototype(*args)

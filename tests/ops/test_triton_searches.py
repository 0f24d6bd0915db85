"""The kernels of FAB, Square and Sparse-RS beyond the contract's samples: ties, many blocks, every place."""

from contextlib import ExitStack

import pytest
import torch

from fastadv.ops.registration.library import CARDS
from test_triton import DEVICE, _interpreter, run  # noqa: F401  (pytest finds it by name)
from test_triton import pytestmark as usual

pytestmark = [*usual, pytest.mark.in_full]

INF = float("inf")


@pytest.fixture(autouse=True)
def _many_blocks():
    from fastadv.ops.triton._tuned import Width, trying

    with ExitStack() as stack:
        for name in ("to_hyperplane", "square_linf", "square_bumps", "sparse_rs"):
            stack.enter_context(trying(f"{name}_kernel", Width(32, 1)))
        yield


def check(name, *args):
    args = tuple(arg.to(DEVICE) if isinstance(arg, torch.Tensor) else arg for arg in args)
    out = run(CARDS[name], *args)
    CARDS[name].compare(out, CARDS[name].reference(*args), args)
    return out.cpu()


def hyperplane(points, normal, lack, norm, lo=0.0, hi=1.0):
    return check("to_hyperplane", points, normal, torch.as_tensor(lack, dtype=torch.float64), norm, lo, hi)


@pytest.mark.slow
def test_equal_weights_are_used_up_in_order_across_blocks():
    points, ones = torch.zeros(1, 100), torch.ones(1, 100)
    expected = torch.cat([torch.ones(70), torch.tensor([0.25]), torch.zeros(29)])[None]
    assert torch.equal(hyperplane(points, ones, [70.25], "l1"), expected)
    # the first takes it all where there is no edge
    first = torch.zeros(1, 100)
    first[0, 0] = -70.25
    assert torch.equal(hyperplane(points, ones, [-70.25], "l1", -INF, INF), first)
    # ties among larger and smaller weights, some of no room
    weights, rooms = torch.tensor([2.0, 1.0, -1.0, 0.5, 1.0]), torch.tensor([1.0, 0.5, 0.0, 1.0])
    points, normal = 1 - rooms.repeat(25)[None], weights.repeat(20)[None]
    points = torch.where(normal > 0, points, 1 - points)
    hyperplane(points.expand(5, -1), normal.expand(5, -1), [25.0, 51.2, 68.4, 80.3, 500.0], "l1")


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_weights_and_rooms_of_many_sizes(norm):
    draw = torch.Generator().manual_seed(1)
    size = 10.0 ** (6 * torch.rand(6, 80, generator=draw, dtype=torch.float64))
    scale = torch.tensor([1.0, 1e-42, 1e30]).double().repeat(2)[:, None]
    normal = (size * torch.randn(6, 80, generator=draw).sign() * scale).float()
    room = 10 ** (-4 * torch.rand(6, 80, generator=draw))
    points = torch.where(normal > 0, 1 - room, room)
    whole = (normal.double() * torch.where(normal > 0, 1 - points.double(), -points.double())).sum(1)
    hyperplane(points, normal, whole * torch.tensor([0.001, 0.5, 0.9999, 0.5, -0.5, 2.0]), norm)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("window", "dtype", "radius"), [((5, 7), torch.float32, 0.3), ((1, 13), torch.bfloat16, 4.0)]
)
def test_windows_of_many_blocks(window, dtype, radius):
    image, draw = (2, 9, 13), torch.Generator().manual_seed(3)
    x, best, low, high = torch.rand(4, 3, *image, generator=draw).to(dtype)
    words = torch.randint(2**32, (3, 7), generator=draw)
    # the corners of the image, and a window that is emptied and filled again
    words[0], words[1], words[2, 2:4] = 0, 2**32 - 1, words[2, :2]
    check("square_linf", best, low, high, words[:, :5], *image, *window)
    best[1:] = high[1:]  # which is what some windows would bring
    check("square_linf", best, low, high, words[:, :5], *image, *window)
    bumps = torch.randn(2, *window, generator=draw)
    bumps = (bumps / bumps.flatten(1).norm(dim=1)[:, None, None]).to(dtype)
    for norm in ("l2", "l1"):
        check("square_bumps", best, x, words, bumps, *image, norm, radius, 0.0, 1.0)


@pytest.mark.slow
def test_sets_of_many_blocks():
    draw = torch.Generator().manual_seed(5)
    x, best = torch.rand(2, 3, 100, generator=draw)
    best = torch.where(torch.rand(3, 100, generator=draw) < 0.2, best, x)
    best[0, 64:], x[0, ::7], mask = 1.0, 0.0, torch.rand(3, 100, generator=draw) < 0.5
    leaving, count = torch.tensor([[40, 3, 0], [40, 50, 20]])
    for chosen in (None, mask):
        check("sparse_rs", best, x, torch.arange(3), leaving, count, 0.0, 1.0, 6, 7, chosen)

"""Every Triton kernel equals the reference, on a GPU or in Triton's slow interpreter."""

import pytest
import torch

import fastadv.ops  # noqa: F401
from fastadv.ops._samples import ordered
from fastadv.ops.registration.library import CARDS, results_of, triton_launcher

triton = pytest.importorskip("triton", "3.6", reason="Triton 3.6 or later is not installed")

from fastadv.ops.triton._common import is_interpreted  # noqa: E402

INTERPRETED = is_interpreted()
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
pytestmark = [
    pytest.mark.skipif(
        not INTERPRETED and not torch.cuda.is_available(), reason="no GPU: set TRITON_INTERPRET=1"
    ),
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),  # NumPy warns where 0 / 0 and overflow are meant
]
DTYPES = [
    pytest.param(name, dtype, id=f"{name}-{dtype}".replace("torch.", ""))
    for name, card in CARDS.items()
    if card.triton
    for dtype in card.dtypes
]
# The interpreter takes up to a second a sample: of these many samples one runs, and one of every shape and
# layout.
STRIDES = {
    "linf_step": 3,
    "keep_best_": 1,
    "philox": 2,
    "nearest_prototype": 7,
    "latent_fit": 21,
    "latent_decode": 10,
    "square_bumps": 23,
}
# ops of layers that the engine rewrites on a CPU alone
ON_CPU = {"thin_gradient", "winograd_tiles", "winograd_image"}
# ops of which not even one of every shape runs
STRIDED_ONLY = ("l1_step", "nearest_prototype", "latent_fit", "latent_decode", "square_bumps", "sparse_rs")


@pytest.fixture(autouse=True)
def _interpreter(monkeypatch):
    from tests.triton_interpreter import patched

    if INTERPRETED:
        from fastadv.ops.triton import _latent

        blocks = _latent.blocks

        def large(depth, width, lone, bf16):  # the interpreter pays by the operation, not by the element
            tile = blocks(depth, width, lone, bf16)
            return tile._replace(ROWS=16 if lone else 256, BLOCK=tile.BLOCK if tile.WHOLE else 128)

        monkeypatch.setattr(_latent, "blocks", large)
    with patched():
        yield


def chosen(card, dtype):
    """The samples of a card; fewer of them, other ones for each dtype, in the interpreter."""
    stride = STRIDES.get(card.name, 11) if INTERPRETED else 1
    place = card.dtypes.index(dtype)
    # launchers bring tensors into one layout whatever their dtype
    seen = None if INTERPRETED and (place or card.name in STRIDED_ONLY) else set()
    for index, args in enumerate(card.samples(DEVICE, dtype)):
        layout = tuple((t.shape, t.stride()) for t in args if isinstance(t, torch.Tensor) and t.dim() > 1)
        if index % stride == place * stride // 2 or (seen is not None and layout not in seen):
            if seen is not None:
                seen.add(layout)
            yield args


def clone(args):
    return tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)


def run(card, *args):
    """What the Triton kernel writes, as the op returns it."""
    results = results_of(card, args)
    triton_launcher(card)(*results, *args)
    return results if len(results) > 1 else results[0] if results else None


def equals_reference(card, args, into_first=False):
    mine, theirs = clone(args), clone(args)
    expected = card.reference(*theirs)
    if into_first:
        triton_launcher(card)(mine[0], *mine)
        actual, mine = mine[0], (theirs[0], *mine[1:])
    else:
        actual = run(card, *mine)
    card.compare(actual, expected, args)
    for after, wanted in zip(mine, theirs, strict=True):
        if isinstance(after, torch.Tensor):
            assert torch.equal(after.nan_to_num(7.0), wanted.nan_to_num(7.0)), (
                "an argument holds what the reference did not write"
            )


@pytest.mark.slow
@pytest.mark.in_full
@pytest.mark.parametrize(("name", "dtype"), DTYPES)
def test_kernel_equals_reference(name, dtype):
    card = CARDS[name]
    for index, args in enumerate(chosen(card, dtype)):
        equals_reference(card, args, card.in_place and index % 2)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, card in CARDS.items() if card.triton])
def test_a_sample_of_each_kernel(name):
    """The first with values, whose later ones are many; all of them are compared where an op has changed."""
    card = CARDS[name]
    equals_reference(card, next(args for args in card.samples(DEVICE, card.dtypes[0]) if args[0].numel() > 1))


@pytest.mark.slow
@pytest.mark.in_full
@pytest.mark.parametrize(
    ("held", "dtype", "low", "high"),
    [
        (True, torch.float32, -2.0, 255.0),
        (True, torch.bfloat16, 0.0, 1.0),
        (False, torch.float32, 0.0, 1.0),
        (False, torch.bfloat16, -2.0, 255.0),
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["l2_step", "project_l2", "project_l1"])
def test_rows_in_registers_and_beyond(name, low, high, held, dtype, monkeypatch):
    from fastadv.ops.triton import _row

    monkeypatch.setattr(_row, "MOST", 3_072 if held else 16)
    width, draw = high - low, torch.Generator().manual_seed(6)
    long = 2_500 if held else 300
    for size, share in ((33, 0.3), (784, 0.003), (long, 0.05), (long, 0.6)):
        x = low + width * (1.4 * torch.rand(1, size, generator=draw) - 0.2)
        noise, grad = torch.randn(2, 1, size, generator=draw)
        x = x.to(dtype).clamp(low, high)
        order = 1 if name == "project_l1" else 2
        radius = 0.6 * share * width * size ** (1 / order)
        point = (x + share * width * noise).to(dtype)
        point, grad, center = (part.to(DEVICE, dtype) for part in (point, grad, x))
        args = point, center, radius, low, high
        if name == "l2_step":
            args = point.clamp(low, high), grad, center, radius, radius, low, high
        out, expected = run(CARDS[name], *args), CARDS[name].reference(*args)
        apart = (out.double() - expected.double()).abs()
        assert bool((((ordered(out) - ordered(expected)).abs() <= 4) | (apart <= 3e-7 * width)).all())
        assert (out.cpu().double() - x.double()).norm(p=order) <= radius * (1 + 1e-12)
        assert low <= out.min()
        assert out.max() <= high


@pytest.mark.slow
@pytest.mark.in_full
@pytest.mark.parametrize(
    ("dtype", "held"), [(torch.float32, True), (torch.float32, False), (torch.bfloat16, True)], ids=str
)
def test_l0_tells_gains_apart_that_float32_does_not(dtype, held, monkeypatch):
    from fastadv.ops.triton import _row

    monkeypatch.setattr(_row, "MOST", 3_072 if held else 16)
    draw = torch.Generator().manual_seed(7)
    for size in (5, 2_500 if held else 300):
        x, noise, share = torch.rand(3, 2, size, generator=draw)
        near = 1e-3 * (1 + 2.0**-23 * torch.randint(0, 4, (2, size), generator=draw))
        tiny = torch.where(share < 0.3, 1e-20 * near, near)
        sparse = torch.where(share < 0.8, x, 2 * noise - 0.5)
        sparse[0, 1] = torch.nan
        for point, center in (
            (near, 0 * x),
            (tiny, 0 * x),
            (sparse, x),
            ((3 * noise).round() / 2, x.round()),
        ):
            for radius in (1.0, size / 3):
                args = point.to(DEVICE, dtype), center.to(DEVICE, dtype), radius, 0.0, 1.0
                out, expected = run(CARDS["project_l0"], *args), CARDS["project_l0"].reference(*args)
                assert torch.equal(out.nan_to_num(7.0), expected.nan_to_num(7.0))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_no_op_waits_for_the_device():
    def moved(part):
        if isinstance(part, list):
            return [moved(each) for each in part]
        return part.pin_memory().to("cuda", non_blocking=True) if isinstance(part, torch.Tensor) else part

    waits = set()
    for name, card in CARDS.items():
        for args in card.samples(torch.device("cpu"), card.dtypes[0]):
            given = list(map(moved, args))
            torch.cuda.set_sync_debug_mode("error")
            try:
                getattr(torch.ops.fastadv, name)(*given)
            except RuntimeError as error:
                if "synchronizing" not in str(error):
                    raise
                waits.add(name)
            finally:
                torch.cuda.set_sync_debug_mode("default")
    assert waits <= ON_CPU


@pytest.mark.slow
@pytest.mark.in_full
@pytest.mark.parametrize("name", ["linf_step", "l2_step", "l1_step"])
def test_bfloat16_halves(name):
    """Halfway between neighbors: a step rounds to even, the edge of the ball rounds towards x."""
    x = (1 + torch.tensor([1, 40, 41, 64, 99, 127])[:, None] / 128).to(DEVICE, torch.bfloat16)
    grad, half = x.new_tensor([1, -1, 1, -1, -1, 1])[:, None], 2.0**-8
    assert torch.equal(run(CARDS[name], x, grad, x, half, 1.0, -8.0, 8.0), x)
    if name == "linf_step":
        expected = (x.double() + grad.double() * half).to(torch.bfloat16)
        assert torch.equal(run(CARDS[name], x, grad, x, float("inf"), half, -8.0, 8.0), expected)

"""One contract over all ops: kernels equal the reference, leave inputs alone and are repeatable."""

import os
import subprocess
import sys
from itertools import islice

import pytest
import torch

import fastadv.ops
from fastadv.ops.registration.library import CARDS, OpCard, cpu_launcher, extension
from tests.ops import page
from tests.processes import finish, serve

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
CPU = torch.device("cpu")
SHARED = "weight", "prototypes", "bias", "bumps"  # arguments that all samples of a batch share
# checks of opcheck; `test_compile_whole` holds the one that is left, which takes longest
CHECKS = "test_schema", "test_autograd_registration", "test_faketensor"
# ops whose samples pass in less than a thirtieth of a second
BRIEF = "count_votes_", "keep_best_", "largest", "winograd_tiles", "winograd_image", "glass_shuffle"
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def many(results):
    """The tensors that an op returned, one or several."""
    return (results,) if isinstance(results, torch.Tensor) else results or ()


def clone(args):
    return tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)


def mutates(card: OpCard) -> bool:
    return "!" in card.schema


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize(
    "name", [name if name in BRIEF else pytest.param(name, marks=pytest.mark.slow) for name in CARDS]
)
def test_kernel_equals_reference(name, device):
    """Kernels and, in dtypes that they do not serve, references: values, layouts, and what is written."""
    for dtype in DTYPES:
        check_kernel(name, dtype, device)


def check_kernel(name, dtype, device, stride=1):
    card, op = CARDS[name], getattr(torch.ops.fastadv, name)
    samples, served = card.samples(device, dtype), set(card.dtypes) & set(DTYPES) or {DTYPES[0]}
    for args in islice(samples, 0, None, stride) if dtype in served else list(samples)[1::4]:
        mine, theirs = clone(args), clone(args)
        actual, expected = op(*mine), card.reference(*theirs)
        for a, wanted in zip(mine, theirs, strict=True):
            if isinstance(a, torch.Tensor):
                torch.testing.assert_close(a, wanted, rtol=0, atol=0, equal_nan=True, msg="not as written")
        if mutates(card):
            continue
        card.compare(actual, expected, args)
        for result, again, fake in zip(many(actual), many(op(*mine)), many(card.fake(*args)), strict=True):
            assert torch.equal(result.nan_to_num(7.0), again.nan_to_num(7.0)), "two runs differ"
            assert (result.shape, result.stride(), result.dtype) == (fake.shape, fake.stride(), fake.dtype)
        if card.in_place:
            getattr(torch.ops.fastadv, f"{name}_")(*mine)
            assert torch.equal(mine[0], actual)


# rows of these ops are not of one sample each
@pytest.mark.parametrize(
    "name", [n for n in CARDS if not n.startswith(("winograd", "latent_decode", "noisy", "count"))]
)
def test_a_sample_stands_alone(name):
    """The others may be missing, or full of NaN: its results are the same to the bit."""
    card, op = CARDS[name], getattr(torch.ops.fastadv, name)

    def result(args):
        return many(op(*args)) or args[: len(card.signature.written)]

    samples = [args for args in card.samples(CPU, card.dtypes[0]) if len(args[0]) > 2]
    for args in samples[:: max(1, len(samples) // 4)]:
        count = len(args[0])
        of_samples = [
            isinstance(a, torch.Tensor) and len(a) == count and argument not in SHARED
            for a, argument in zip(args, card.signature.names, strict=False)
        ]
        together = result(clone(args))
        alone = result(clone(a[1:2] if of_one else a for a, of_one in zip(args, of_samples, strict=True)))
        spoilt = clone(args)
        for a, of_one in zip(spoilt, of_samples, strict=True):
            if of_one and a.is_floating_point():
                a[0] = torch.nan
        broken = result(spoilt)
        for actual, wanted in zip(
            broken, () if mutates(card) else many(card.reference(*spoilt)), strict=False
        ):
            assert torch.equal(actual.isnan(), wanted.isnan())
        for whole, one, other in zip(together, alone, broken, strict=True):
            torch.testing.assert_close(one[0], whole[1], rtol=0, atol=0, equal_nan=True)
            torch.testing.assert_close(other[1:], whole[1:], rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("name", CARDS)
def test_opcheck(name):
    """With the optional arguments and without, on the last of the samples, which have the most dimensions."""
    card = CARDS[name]
    samples = [args for args in card.samples(CPU, torch.float32) if args[0].numel()]
    chosen = {sum(a is not None for a in args): args for args in samples}
    for op in (name, f"{name}_") if card.in_place else (name,):
        for args in chosen.values():
            # opcheck takes NaN for a difference
            numbers = (a.nan_to_num(0.0) if isinstance(a, torch.Tensor) else a for a in clone(args))
            torch.library.opcheck(getattr(torch.ops.fastadv, op).default, tuple(numbers), test_utils=CHECKS)


@pytest.mark.slow
@pytest.mark.parametrize("dynamic", [False, True])
def test_compile_whole(dynamic):
    """All ops in one graph; sizes are symbols where an op computes those of its results."""
    cards = [
        card for card in CARDS.values()
        if not mutates(card) and (card.fake.__module__ == card.reference.__module__) == dynamic
    ]  # fmt: skip
    samples = [next(a for a in card.samples(CPU, torch.float32) if a[0].numel()) for card in cards]

    def ops(samples):
        return [getattr(torch.ops.fastadv, card.name)(*a) for card, a in zip(cards, samples, strict=True)]

    compiled = torch.compile(ops, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for card, a, actual in zip(cards, samples, compiled([*map(clone, samples)]), strict=True):
        card.compare(actual, getattr(torch.ops.fastadv, card.name)(*clone(a)), a)


@pytest.mark.parametrize(
    "name",
    [n for n, c in CARDS.items() if c.no_gradient and not mutates(c) and c.dtypes[0].is_floating_point],
)
def test_backward_raises(name):
    card = CARDS[name]
    args = list(next(a for a in card.samples(CPU, torch.float32) if a[0].numel() > 1))
    args[0] = args[0].clone().requires_grad_()
    result = getattr(torch.ops.fastadv, name)(*args)
    with pytest.raises(RuntimeError, match=f"{name} has no gradient"):
        (result if isinstance(result, torch.Tensor) else result[0]).sum().backward()


@pytest.mark.skipif(extension is None, reason="no extension built")
def test_every_op_has_a_cpp_kernel():
    assert [n for n, c in CARDS.items() if cpu_launcher(c) is None] == []


def compared(rank, world, isa):
    """What a process that computes by the instruction set does."""
    os.environ["FASTADV_ISA"] = isa
    assert extension.isa() == isa
    for name in CARDS:
        for dtype in DTYPES[:2]:  # float64 goes to the reference, whatever the processor has
            check_kernel(name, dtype, CPU, stride=5)


@pytest.mark.slow
@pytest.mark.skipif(extension is None, reason="no extension built")
@pytest.mark.parametrize("isa", extension.isas() if extension else [])
def test_contract_on_each_instruction_set(isa, tmp_path):
    """Each instruction set of this processor passes the same comparison; a process chooses one once."""
    if isa == extension.isa():
        pytest.skip("covered by this process")
    [(code, out, err)] = finish(serve(compared, tmp_path, 1, isa))
    assert code == 0, (out + err)[-3000:]


@pytest.mark.slow
def test_unknown_instruction_set_is_refused(tmp_path):
    if extension is None:
        pytest.skip("no extension built")
    [(code, _, err)] = finish(serve(compared, tmp_path, 1, "sse9"))
    assert code != 0
    assert "expected one of baseline" in err


ALONE = """
import os, sys
sys.modules["fastadv._C"] = sys.modules["triton"] = None
import torch
import fastadv.ops as ops
from fastadv.ops.registration.library import CARDS, triton_launcher
assert not any(map(triton_launcher, CARDS.values())), "a launcher came from nowhere"
for name, card in CARDS.items():
    args = next(a for a in card.samples(torch.device("cpu"), torch.float32) if a[0].numel())
    getattr(torch.ops.fastadv, name)(*args)
    assert not card.in_place or getattr(torch.ops.fastadv, f"{name}_")(*args) is None
os.environ["FASTADV_STRICT"] = "1"
try:
    ops.linf_step(torch.rand(2, 3), torch.rand(2, 3), torch.rand(2, 3), 0.1, 0.1)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_kernels_the_references_serve_and_strict_refuses_them():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", ALONE], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert "FASTADV_STRICT=1, and no compiled kernel serves torch.float32" in run.stdout


def test_every_op_can_be_called_from_its_module():
    for name, card in CARDS.items():
        module = sys.modules[card.reference.__module__]
        assert callable(getattr(module, name))
        assert not card.in_place or callable(getattr(module, f"{name}_"))
    twins = {f"{name}_" for name, card in CARDS.items() if card.in_place}
    assert set(fastadv.ops.__all__) < CARDS.keys() | twins


def test_the_page_of_ops_is_the_one_written():
    assert page.PAGE.read_text() == page.text(), "run: python -m tests.ops.page"

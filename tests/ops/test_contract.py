"""One contract over all ops.

Every compiled kernel equals the reference on every sample, leaves its inputs alone and is repeatable.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastadv.ops
from fastadv.ops.registration.library import CARDS, OpCard, cpu_launcher, extension
from tests.ops import page
from tests.processes import finish, serve

DTYPES = (torch.float32, torch.bfloat16, torch.float64)
CPU = torch.device("cpu")
DEVICES = [CPU, *([torch.device("cuda")] if torch.cuda.is_available() else [])]


def clone(args):
    return tuple(a.clone() if isinstance(a, torch.Tensor) else a for a in args)


def outputs(result, args):
    """What an op produced: its results, or its first arguments where it writes them."""
    return result if result is not None else tuple(a for a in args if isinstance(a, torch.Tensor))


def mutates(card: OpCard) -> bool:
    return "!" in card.schema


@pytest.mark.slow
@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", CARDS)
def test_kernel_equals_reference(name, dtype, device):
    card = CARDS[name]
    for args in card.samples(device, dtype):
        mine, theirs = clone(args), clone(args)
        actual, expected = getattr(torch.ops.fastadv, name)(*mine), card.reference(*theirs)
        if mutates(card):
            for a, e in zip(mine, theirs, strict=True):
                assert (
                    torch.equal(a, e)
                    if a.dtype == torch.bool
                    else torch.allclose(a, e, rtol=0, atol=0, equal_nan=True)
                )
        else:
            card.compare(actual, expected, args)
            for a, before in zip(mine, args, strict=True):
                if isinstance(a, torch.Tensor):
                    assert torch.equal(a.nan_to_num(7.0), before.nan_to_num(7.0)), "an input was changed"
            pair = [
                (r,) if isinstance(r, torch.Tensor) else r
                for r in (actual, getattr(torch.ops.fastadv, name)(*mine))
            ]
            for a, b in zip(*pair, strict=True):
                assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0)), "two runs differ"


@pytest.mark.parametrize("device", DEVICES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", [n for n, c in CARDS.items() if c.in_place])
def test_in_place_twin_equals_functional(name, dtype, device):
    card = CARDS[name]
    for args in card.samples(device, dtype):
        expected = getattr(torch.ops.fastadv, name)(*clone(args))
        mine = clone(args)
        getattr(torch.ops.fastadv, f"{name}_")(*mine)
        assert torch.equal(mine[0], expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("name", [n for n, c in CARDS.items() if not mutates(c)])
def test_results_lie_as_the_fake_says(name, dtype):
    """Kernels and, in dtypes that they do not serve, references."""
    for args in CARDS[name].samples(CPU, dtype):
        results, fakes = getattr(torch.ops.fastadv, name)(*args), CARDS[name].fake(*args)
        pairs = [(results, fakes)] if isinstance(fakes, torch.Tensor) else zip(results, fakes, strict=True)
        for result, fake in pairs:
            assert (result.shape, result.stride(), result.dtype) == (fake.shape, fake.stride(), fake.dtype)


@pytest.mark.slow
@pytest.mark.parametrize("name", CARDS)
def test_opcheck(name):
    # without the extension the op differs by its kernel alone, whose layouts a test of their own compares
    card, stride = CARDS[name], 7 if extension else 21
    ops = [getattr(torch.ops.fastadv, name)] + (
        [getattr(torch.ops.fastadv, f"{name}_")] if card.in_place else []
    )
    for op in ops:
        for args in list(card.samples(CPU, torch.float32))[::stride]:
            # opcheck takes NaN for a difference
            torch.library.opcheck(
                op.default,
                tuple(a.nan_to_num(0.0) if isinstance(a, torch.Tensor) else a for a in clone(args)),
            )


@pytest.mark.parametrize("name", [n for n, c in CARDS.items() if not mutates(c)])
def test_compiles_whole(name):
    card = CARDS[name]
    op = getattr(torch.ops.fastadv, name)
    args = next(a for a in card.samples(CPU, torch.float32) if a[0].numel())
    torch._dynamo.reset()  # or the lambda's count of recompilations runs over all ops
    compiled = torch.compile(lambda *a: op(*a), fullgraph=True, backend="aot_eager")
    card.compare(compiled(*clone(args)), op(*clone(args)), args)


@pytest.mark.parametrize(
    "name", [n for n, c in CARDS.items() if c.no_gradient and not mutates(c) and n != "philox"]
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
    for name, card in CARDS.items():
        for dtype in DTYPES[:2]:  # float64 goes to the reference, whatever the processor has
            test_kernel_equals_reference(name, dtype, CPU)
            if card.in_place:
                test_in_place_twin_equals_functional(name, dtype, CPU)


@pytest.mark.skipif(extension is None, reason="no extension built")
@pytest.mark.parametrize("isa", extension.isas() if extension else [])
def test_contract_on_each_instruction_set(isa, tmp_path):
    """Each instruction set of this processor passes the same comparison; a process chooses one once."""
    if isa == extension.isa():
        pytest.skip("covered by this process")
    [(code, out, err)] = finish(serve(compared, tmp_path, 1, isa))
    assert code == 0, (out + err)[-3000:]


def test_unknown_instruction_set_is_refused(tmp_path):
    if extension is None:
        pytest.skip("no extension built")
    [(code, _, err)] = finish(serve(compared, tmp_path, 1, "sse9"))
    assert code != 0
    assert "expected one of baseline" in err


ALONE = """
import os, sys
sys.modules["fastadv._C"] = None
import torch
import fastadv.ops as ops
from test_contract import CARDS, test_opcheck
for name in CARDS:
    test_opcheck(name)
os.environ["FASTADV_STRICT"] = "1"
try:
    ops.linf_step(torch.rand(2, 3), torch.rand(2, 3), torch.rand(2, 3), 0.1, 0.1)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.slow
def test_without_the_extension_the_references_trace_and_strict_refuses_them():
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    environment = {**os.environ, "PYTHONPATH": path}
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

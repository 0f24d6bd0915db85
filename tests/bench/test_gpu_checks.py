"""The correctness stage of `make gpu` notices faults, and the widths that its ops stage finds are used."""

import json
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu_runs import CPU
from torch import Tensor

from bench.gpu.correctness import checked, misjudged, poison, relative_error, replayed_steps
from bench.gpu.nets import small_net
from bench.gpu.ops import write_tuned
from bench.gpu.session import Row
from fastadv import freeze
from fastadv.attacks.core import ranking, waiting
from fastadv.engine.graph import Graphs
from fastadv.ops import _graphs
from fastadv.ops.registration.library import CARDS
from tests import recorded

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy, in the interpreter

Args = tuple[Any, ...]


def planted(fault: Callable[[Tensor, Args], None]) -> Callable[..., None]:
    """linf_step with a fault: `fault` gets the result and the arguments after a right computation."""

    def launch(out: Tensor, *args: Any) -> None:
        kept = out.clone()
        out.copy_(CARDS["linf_step"].reference(*args))
        fault(out, (kept, *args))

    return launch


class TestChecks:
    """The correctness stage notices faults."""

    def args(self) -> Args:
        return next(a for a in CARDS["linf_step"].samples(CPU, torch.float32) if a[0].shape == (3, 7))

    def test_a_right_kernel_passes(self) -> None:
        assert checked(CARDS["linf_step"], planted(lambda out, args: None), self.args()) < 1e-6

    @pytest.mark.parametrize(
        ("fault", "message"),
        [
            (lambda out, args: out.view(-1)[-1].copy_(args[0].view(-1)[-1]), "was not written"),
            (lambda out, args: args[1].zero_(), "argument 0 was changed"),
            (lambda out, args: out.mul_(1.001), "differ, by up to"),
            (lambda out, args: out.add_(torch.rand(()) * 1e-3), "two runs differ"),
        ],
        ids=["unwritten", "argument", "value", "race"],
    )
    def test_a_fault_is_noticed(self, fault: Callable[[Tensor, Args], None], message: str) -> None:
        torch.manual_seed(0)
        with pytest.raises(AssertionError, match=message):
            checked(CARDS["linf_step"], planted(fault), self.args())

    @pytest.mark.parametrize(
        ("capture", "message"),
        [
            (recorded.capture, ""),
            (lambda run: lambda: None, "of the pixels elsewhere"),
            (lambda run: recorded.capture(lambda: bool(torch.ones(1)) and run()), "not captured"),
        ],
        ids=["right", "nothing", "refused"],
    )
    def test_steps_that_a_graph_replays(
        self, capture: Callable[..., Any], message: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_graphs, "capture", capture)
        for module in (waiting, ranking):
            monkeypatch.setattr(module, "waits", lambda device: True)
        model, x = small_net(), torch.rand(6, 3, 32, 32)
        with torch.no_grad():
            y = model(x).argmax(1)
        plain, graphed = freeze(model), freeze(model)
        plain.input_gradient(x, y)
        graphed.input_gradient(x, y)
        graphed.search.graphs = Graphs()
        with pytest.raises(AssertionError, match=message) if message else nullcontext():
            rows = list(replayed_steps("fp32", plain, graphed, x, y))
            assert [row["moved_elsewhere"] for row in rows] == [0.0, 0.0]

    def test_a_written_argument_is_compared(self) -> None:
        card = CARDS["keep_best_"]
        args = next(a for a in card.samples(CPU, torch.float32) if a[0].shape == (64, 3))
        assert checked(card, card.reference, args) == 0.0
        with pytest.raises(AssertionError, match="argument 0 differs"):
            checked(card, lambda *given: None, args)

    def test_poison_changes_from_round_to_round(self) -> None:
        results = torch.zeros(3), torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
        poison(results, 0)
        first = [result.clone() for result in results]
        poison(results, 1)
        assert first[0].isnan().all()
        assert not any(map(torch.equal, first, results))

    def test_relative_error(self) -> None:
        wanted = torch.tensor([3.0, 4.0, float("nan")], dtype=torch.float64)
        found = torch.tensor([3.0, 4.05, 1.0])
        assert relative_error((found,), (wanted,)) == pytest.approx(0.01, rel=1e-5)
        # of a reference of nothing, the error counts against pixels of a hundredth
        assert relative_error((torch.full((4,), 1e-5),), (torch.zeros(4),)) == pytest.approx(1e-3, rel=1e-5)

    def test_verdicts_may_differ_on_the_border_alone(self) -> None:
        logits = torch.tensor([[1.0, 0.0], [1.0, 1.000001], [0.0, 1.0]])
        y, nothing = torch.zeros(3, dtype=torch.int64), torch.zeros(3, dtype=torch.bool)
        assert misjudged(logits, y, nothing).tolist() == [False, False, True]
        assert misjudged(logits, y, ~nothing).tolist() == [True, False, False]


def winner(kernel: str, block: int | None, gpu: str = "H") -> Row:
    width = None if block is None else {"BLOCK": block, "num_warps": 8}
    return {"provider": "winner", "kernel": kernel, "width": width, "gpu": gpu}


class TestTuned:
    def test_winners_are_kept_by_gpu_and_kernel(self, tmp_path: Path) -> None:
        path = tmp_path / "tuned.json"
        assert not write_tuned(path, [winner("a", 512, gpu="")])
        assert write_tuned(path, [winner("a", 512), winner("b", 1024), winner("a", 256, gpu="A")])
        assert write_tuned(path, [winner("b", None)])  # its default won
        assert json.loads(path.read_text()) == {
            "H": {"a": {"BLOCK": 512, "num_warps": 8}},
            "A": {"a": {"BLOCK": 256, "num_warps": 8}},
        }

    def test_kernels_launch_with_the_width_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("triton")
        from fastadv.ops.triton import _common, _tuned, keep_best, linf_step
        from fastadv.ops.triton import l2_step as _l2_step

        seen: list[tuple[str, int, int, int]] = []

        def start(kernel: Any, programs: int, on: Tensor, *args: Any, **options: Any) -> None:
            seen.append((kernel.fn.__name__, programs, options["BLOCK"], options["num_warps"]))

        for module in (_common, linf_step, keep_best):
            monkeypatch.setattr(module, "start", start)
        x, budget = torch.zeros(3, 2000), (0.1, 0.1, 0.0, 1.0)
        row, flag = torch.zeros(3), torch.zeros(3, dtype=torch.bool)

        def all_three() -> None:
            linf_step.launch(x, x, x, x, *budget)
            _l2_step.launch(x, x, x, x, *budget)
            keep_best.launch(x, row, flag, x, row, flag)

        all_three()
        wide = _tuned.Width(256, 2)
        with ExitStack() as stack:
            for name in ("linf_step", "l2_step", "keep_best"):
                stack.enter_context(_tuned.trying(f"{name}_kernel", wide))
            all_three()
        all_three()
        default = [
            ("linf_step_kernel", 6, 1024, 4),
            ("l2_step_kernel", 3, 1024, 8),
            ("keep_best_kernel", 3, 1024, 8),
        ]
        tried = [
            ("linf_step_kernel", 24, 256, 2), ("l2_step_kernel", 3, 256, 2), ("keep_best_kernel", 3, 256, 2),
        ]  # fmt: skip
        assert seen == default + tried + default

    def test_the_table_serves_its_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("triton")
        from fastadv.ops.triton import _tuned
        from fastadv.ops.triton.l2_step import l2_step_kernel

        wide, default = _tuned.Width(512, 4), _tuned.Width(1024, 8)
        monkeypatch.setattr(_tuned, "TUNED", {"H": {"l2_step_kernel": wide}})
        names = {0: "H", 1: "A"}
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: names[device.index])
        _tuned._of_device.cache_clear()
        try:
            assert _tuned.width(l2_step_kernel, torch.device("cuda", 0), default) == wide
            assert _tuned.width(l2_step_kernel, torch.device("cuda", 1), default) == default
            assert _tuned.width(l2_step_kernel, CPU, default) == default
        finally:
            _tuned._of_device.cache_clear()

    @pytest.mark.parametrize("name", ["linf_step", "l2_step"])
    def test_another_width_gives_the_same_result(self, name: str) -> None:
        triton = pytest.importorskip("triton")
        if not triton.knobs.runtime.interpret:
            pytest.skip("in the interpreter alone; on a GPU `make gpu` compares each width")
        from bench.gpu.interpreter import patched
        from fastadv.ops.registration.library import triton_launcher
        from fastadv.ops.triton._tuned import Width, trying

        x, grad = (torch.rand(2, 300, generator=torch.Generator().manual_seed(s)) for s in range(2))
        args, results = ((x * 0.9, grad - 0.5, x, 0.3, 0.1, 0.0, 1.0), [])
        for block in (128, 512):
            out = torch.full_like(x, float("nan"))
            with patched(), trying(f"{name}_kernel", Width(block, 4)):
                triton_launcher(CARDS[name])(out, *args)
            results.append(out)
        CARDS[name].compare(results[0], results[1], args)

"""`make gpu`, stage correctness: every op, the engine and every attack on this device, before any figure.

An op's results are poisoned before each run, so that an element nobody writes shows. They are compared with
the reference in the same precision, by the op's own tolerance, and in float64, by the relative error of all
elements together.
"""

import importlib.util
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from bench import pgd
from bench.clock import repeatable
from bench.nets import small_net
from bench.records import ROOT
from bench.session import Case, Row, Session, Skip
from bench.subjects.loop import LINF, compared
from bench.subjects.training import random_images
from fastadv.ops.registration.library import CARDS, OpCard, results_of, triton_launcher

Args = tuple[Any, ...]
# ‖out − ref‖ / ‖ref‖ against float64: float32 stays far below; the bound of bfloat16 holds for results stored
# so and for bf16 products
BOUNDS = {torch.float32: 2e-3, torch.bfloat16: 2e-2}
RADII = {"linf": 8 / 255, "l2": 0.5, "l1": 12.0, "l0": 24.0}
QUICK = {"steps": 10, "queries": 100, "restarts": 1}
TINY = {"steps": 2, "queries": 8, "restarts": 1, "directions": 1}
# these cost the interpreter less than a second a sample; without a GPU the other ops run on the CPU
INTERPRETED = ("linf_step", "l2_step", "keep_best_", "philox")
THREAT = fa.Linf(RADII["linf"])
RECIPES = {
    "Standard": fa.train.Standard(),
    "PGD": fa.train.PGDTraining(THREAT, steps=3),
    "TRADES": fa.train.TRADES(THREAT, steps=3),
    "Fast": fa.train.FastTraining(THREAT),
}
TESTS = ("tests/ops/test_triton.py", "tests/engine/test_capture.py")


def cases(session: Session) -> Iterator[Case]:
    for name in CARDS:
        yield Case(f"op {name}", lambda name=name: op(session, name))
    for precision in session.precisions:
        yield Case(f"engine {precision}", lambda precision=precision: engine(session, precision))
    for name, entry in fa.attacks.ATTACKS.items():
        yield Case(f"attack {name}", lambda name=name, entry=entry: attack(session, name, entry))
    for name, recipe in RECIPES.items():
        yield Case(f"training {name}", lambda recipe=recipe: training(session, recipe))
    for path in session.size(TESTS, TESTS[-1:]):
        yield Case(f"pytest {path}", lambda path=path: pytest(session, path), needs=60)


def training(session: Session, recipe: Any) -> Iterator[Row]:
    """Train by captured steps and by single ones, which must give the same weights."""
    data, weights = random_images(session.size(2048, 160)).to(session.device), list[list[Tensor]]()
    for cuda_graph in (None, False):
        net = small_net().to(session.device).train()
        with repeatable():
            reports = fa.train.fit(
                net, data, recipe, epochs=2, batch_size=64, seed=1,
                execution=fa.train.Execution(cuda_graph=cuda_graph, compile=False),
            )  # fmt: skip
        assert torch.isfinite(torch.tensor(reports[-1].loss)), reports
        weights.append([weight.detach() for weight in net.parameters()])
    apart = sum(int((a != b).sum()) for a, b in zip(*weights, strict=True))
    assert not apart, f"{apart} weights differ"
    yield {"provider": "fastadv", "samples": len(data), "weights_apart": apart}


def moved(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return change(value)
    return [moved(part, change) for part in value] if isinstance(value, list) else value


def poison(results: Args, round: int) -> None:
    """Fill results with NaN, or in every other round with another value that no kernel leaves there."""
    for result in results:
        if result.is_floating_point():
            result.fill_(7.25 if round % 2 else float("nan"))
        else:
            result.fill_(round % 2 if result.dtype == torch.bool else -7 - round % 2)


def same(first: Tensor, second: Tensor, otherwise: str) -> None:
    """Assert that two tensors are equal to the last bit, where NaN equals NaN."""
    torch.testing.assert_close(first, second, rtol=0, atol=0, equal_nan=True, msg=otherwise)


def relative_error(actual: Args, expected: Args) -> float:
    """Return the largest ‖actual − expected‖ / ‖expected‖, over the elements that are finite in both."""
    worst = 0.0
    for found, wanted in zip(actual, expected, strict=True):
        if not found.is_floating_point():
            continue
        finite = found.isfinite() & wanted.isfinite()
        apart = (found.double() - wanted.double())[finite].norm()
        # a reference of nearly nothing is taken for pixels of a hundredth
        least = 1e-2 * apart.new_tensor(float(finite.sum())).sqrt().clamp_min(1e-30)
        worst = max(worst, float(apart / torch.maximum(wanted.double()[finite].norm(), least)))
    return worst


def kernel_of(session: Session, card: OpCard) -> Callable[..., None] | None:
    """Return the kernel to check: Triton's on a GPU, in the interpreter for cheap ops; None for the op."""
    if session.cuda or card.name in INTERPRETED:
        try:
            return triton_launcher(card)
        except ImportError as error:
            session.note(f"no Triton kernels: {error}")
    return None


def checked(card: OpCard, launch: Callable[..., None] | None, args: Args) -> float:
    """Run one sample three times and compare. Returns the relative error against float64.

    Three times, because an op that keeps a CUDA graph captures it in the second call and replays it in the
    third.
    """
    theirs, runs = moved(list(args), Tensor.clone), list[Args]()
    expected = card.reference(*theirs)
    for round in range(1 if card.signature.written else 3):
        mine = moved(list(args), Tensor.clone)
        if launch is None:
            made = getattr(torch.ops.fastadv, card.name)(*mine)
            results = made if isinstance(made, tuple) else (made,)
        else:
            results = () if card.signature.written else results_of(card, tuple(mine))
            poison(results, round)
            launch(*results, *mine)
        for number, (found, wanted) in enumerate(zip(mine, theirs, strict=True)):
            if isinstance(found, Tensor):
                same(found, wanted, f"argument {number} is not as the reference leaves it")
        runs.append(results)
    if card.signature.written:
        return 0.0
    for results in runs[1:]:
        for first, later in zip(runs[0], results, strict=True):
            same(first, later, "two runs differ, or an element was not written")
    card.compare(runs[0] if len(runs[0]) > 1 else runs[0][0], expected, args)
    exact = card.reference(*moved(list(args), lambda t: t.double() if t.is_floating_point() else t))
    return relative_error(runs[0], exact if isinstance(exact, tuple) else (exact,))


def replayed(card: OpCard, launch: Callable[..., None], args: Args) -> None:
    """Assert that a captured launch writes what an eager one writes."""
    results, eager = results_of(card, args), results_of(card, args)
    launch(*eager, *args)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        launch(*results, *args)
    poison(results, 0)
    graph.replay()
    for captured, plain in zip(results, eager, strict=True):
        same(captured, plain, "a replayed graph differs from an eager launch")


def op(session: Session, name: str) -> Iterator[Row]:
    """Check an op on all of its samples; on machines without a GPU on a few small ones."""
    card = CARDS[name]
    launch = kernel_of(session, card)
    with ExitStack() as stack:
        stack.enter_context(repeatable())
        if launch is not None and not session.cuda:
            from tests.triton_interpreter import patched

            stack.enter_context(patched())
        for dtype in card.dtypes:
            worst, graphs, every = 0.0, 0, samples(session, card, dtype)
            for args in every:
                error = checked(card, launch, args)
                rough = dtype == torch.bfloat16 or (name == "latent_fit" and args[-1] is True)
                bound = BOUNDS[torch.bfloat16 if rough else torch.float32]
                assert error <= bound, f"relative error {error:.2g} against float64, more than {bound:.0e}"
                worst = max(worst, error)
                capture = not card.signature.written and name != "latent_fit" and args[0].numel()
                if session.cuda and launch and capture:
                    replayed(card, launch, args)
                    graphs += 1
            provider = f"{'triton' if launch else 'op'} {str(dtype).removeprefix('torch.')}"
            figures = {"samples": len(every), "replayed": graphs, "relative_error": float(f"{worst:.2g}")}
            yield {"provider": provider, **figures}


def samples(session: Session, card: OpCard, dtype: torch.dtype) -> list[Args]:
    found = list(card.samples(session.device, dtype))
    if not session.tiny:
        return found
    return sorted((args for args in found if args[0].numel()), key=lambda args: args[0].numel())[:2]


def engine(session: Session, precision: Any) -> Iterator[Row]:
    """Compare logits and input gradient with float64, and steps that a CUDA graph replays with others."""
    x = session.rand(session.size(67, 5), 3, 32, 32)
    y = torch.arange(len(x), device=x.device) % 10
    exact, point = small_net().cpu().double(), x.cpu().double().requires_grad_()
    logits = exact(point)
    nn.functional.cross_entropy(logits, y.cpu(), reduction="sum").backward()
    wanted = logits.detach(), point.grad
    frozen = fa.freeze(model := small_net().to(session.device), precision)
    # TF32 would change the sign of so many hidden units that a wrong gradient would not show in float32
    with repeatable():
        found = frozen.input_gradient(x, y)
    bound = {"fp32": 5e-3, "bf16": 0.2}[precision]
    for name, actual, expected in zip(("logits", "gradient"), found[1:], wanted, strict=True):
        error = relative_error((actual.cpu(),), (expected,))
        assert error <= bound, f"{name}: relative error {error:.2g}, more than {bound}"
        short = float(f"{error:.2g}")
        yield {"provider": f"{precision} {name}", "samples": len(x), "relative_error": short}
    call = partial(fa.attacks.pgd, frozen, x, pgd.classes(model, x), LINF, steps=20, stop_early=False)
    yield compared(f"{precision} steps", call)


def misjudged(logits: Tensor, y: Tensor, success: Tensor) -> Tensor:
    """Test whether `success` contradicts the logits by more than rounding, bool [B].

    In a batch of another size the model may round otherwise, and a nearest success lies on the border.
    """
    own = logits.gather(1, y[:, None]).squeeze(1)
    margin = logits.scatter(1, y[:, None], -torch.inf).amax(1) - own
    return (success != (margin > 0)) & (margin.abs() > 1e-4 * logits.abs().amax(1))


def attack(session: Session, name: str, entry: Any) -> Iterator[Row]:
    """Check in each norm that results are in the threat, successes the model's own, and reruns equal."""
    model = small_net().to(session.device)
    x = session.rand(session.size(64, 4), 3, 32, 32)
    with torch.no_grad():
        y = model(x).argmax(1)
    before = [tensor.clone() for tensor in model.state_dict().values()]
    if entry.requires:
        raise Skip(f"needs {entry.requires}")
    for norm in [norm for norm in entry.norms if norm in RADII][: session.size(None, 1)]:
        threat = fa.threat.THREATS[norm](inf if entry.kind == "minimum" else RADII[norm])
        with repeatable():
            first, again = (entry.run(model, x, y, threat, **budget(entry, session.tiny)) for _ in range(2))
            with torch.no_grad():
                logits = model(first.x_adv)
        inside = threat.contains(first.x_adv, x)
        assert bool(inside.all()), f"{norm}: {int((~inside).sum())} results lie outside the threat"
        false = misjudged(logits, y, first.success)
        assert not bool(false.any()), f"{norm}: {int(false.sum())} verdicts are not the model's"
        assert torch.equal(first.x_adv, again.x_adv), f"{norm}: two runs differ"
        assert bool(first.x_adv.isfinite().all()), f"{norm}: results that are not finite"
        success = round(float(first.success.float().mean()), 3)
        yield {"provider": norm, "samples": len(x), "success": success}
    after = model.state_dict().values()
    assert all(map(torch.equal, before, after)), "the model was changed"


def budget(entry: Any, tiny: bool) -> dict[str, Any]:
    given, known = dict(entry.quick), inspect.signature(entry.run).parameters
    for name, most in (TINY if tiny else QUICK).items():
        if name in given or (name in known and known[name].default is inspect.Parameter.empty):
            given[name] = min(given.get(name, most), most) if tiny else given.get(name, most)
    return given


def pytest(session: Session, path: str) -> Iterator[Row]:
    missing = [
        name for name in ("pytest", "hypothesis", "filelock") if importlib.util.find_spec(name) is None
    ]
    if missing or not (ROOT / path).exists():
        raise Skip(f"{', '.join(missing) or path} is not here; the checks above stand alone")
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", path]
    command += ["--collect-only"] if session.tiny else []
    if importlib.util.find_spec("xdist") and not session.tiny:
        command += ["--numprocesses", "auto", "--maxprocesses", "8"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    left = max(30.0, session.left())
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=left)
    lines = run.stdout.strip().splitlines() or run.stderr.strip().splitlines() or [""]
    failed = [line for line in lines if re.match(r"(FAILED|ERROR|E  )", line)][:5]
    assert run.returncode == 0, f"{lines[-1]}; {'; '.join(failed)}"
    yield {"provider": "pytest", "result": lines[-1]}

"""The tables of the study: what was measured, a line each, beside what the paper printed."""

from collections.abc import Iterator

from torch import Tensor

from fastadv.studies.goodfellow2014 import measure
from fastadv.studies.goodfellow2014.measure import STEPS, Answers, Bench, Line, Paper
from fastadv.studies.goodfellow2014.nets import LARGE

UNKNOWN: Paper = (None, None)
ROUNDED: dict[str, Paper] = {
    "maxout": (0.894, 0.976),
    "noise_sign": (0.862, 0.973),
    "noise_uniform": (0.904, 0.978),
    "adversarial": (0.179, 0.814),
}


def fgsm(bench: Bench) -> Iterator[Line]:
    """FGSM on networks trained as usual, without the box as in the paper, and within it."""
    paper: dict[str, tuple[Paper, Paper]] = {  # clean, and under FGSM
        "softmax": (UNKNOWN, (0.999, 0.793)),
        "maxout": ((0.0094, None), (0.894, 0.976)),
        "rbf": ((None, 0.606), (0.554, 0.012)),
        "quadratic": ((0.0084, None), (0.307, None)),
    }
    for name, (clean, attacked) in paper.items():
        yield _clean(bench, name, clean)
        yield _attacked(f"{name}, FGSM", bench.answers(name, bench.crafted(name)), attacked)
        boxed = bench.answers(name, bench.crafted(name, boxed=True))
        yield _attacked(f"{name}, FGSM within the box", boxed)


def ensemble(bench: Bench) -> Iterator[Line]:
    """Maxout networks that vote, attacked as one, and by examples for one of them."""
    yield _clean(bench, "ensemble", called=f"ensemble of {bench.settings.members}")
    together = bench.answers("ensemble", bench.crafted("ensemble"))
    yield _attacked("FGSM on the ensemble", together, (0.911, None))
    one = bench.answers("ensemble", bench.crafted("maxout"))
    yield _attacked("FGSM on one member", one, (0.879, None))


def adversarial(bench: Bench) -> Iterator[Line]:
    """Training on FGSM examples: clean error, its own FGSM, and examples that cross over."""
    paper = {"maxout": 0.0094, "adversarial": 0.0084, "large": 0.0114}
    large = [name for name in bench.nets.plans if name.startswith(LARGE)]
    for name in (*paper, *large):
        yield _clean(bench, name, (paper.get(name, 0.00782), None))
    for name in ("adversarial", *large):
        own = bench.answers(name, bench.crafted(name))
        yield _attacked(f"{name}, its own FGSM", own, (0.179, 0.814))
        there = bench.answers(name, bench.crafted("maxout"))
        yield _attacked(f"{name}, FGSM on maxout", there, (0.196, None))
        back = bench.answers("maxout", bench.crafted(name))
        yield _attacked(f"maxout, FGSM on {name}", back, (0.409, None))
        most = measure.STRONGLY_TESTED
        first = f", first {most} images" if len(bench.y) > most else ""
        yield Line(f"{name}, PGD-{STEPS} within the box{first}", 1 - bench.robust_accuracy(name))


def controls(bench: Bench) -> Iterator[Line]:
    """Noise in place of FGSM, FGSM in a hidden layer, and L1 decay."""
    noise = ("noise_sign", "noise_uniform")
    decayed = [name for name in bench.nets.plans if name.startswith("l1_")]
    for name in (*noise, "hidden_first", "hidden_last", *decayed):
        yield _clean(bench, name)
        paper = ROUNDED[name] if name in noise else UNKNOWN
        yield _attacked(f"{name}, FGSM", bench.answers(name, bench.crafted(name)), paper)


def agreement(bench: Bench) -> Iterator[Line]:
    """Yield how often shallow networks give the class that maxout gives its own adversarial examples."""
    crafted = bench.crafted("maxout")
    deep, softmax, rbf = (bench.answers(name, crafted) for name in ("maxout", "softmax", "rbf"))
    for name, other, printed in (("softmax", softmax, 0.546), ("rbf", rbf, 0.16)):
        yield _agrees(f"{name} says maxout's class where that is wrong", deep, other, deep.wrong, printed)
    for name, other, printed in (("softmax", softmax, 0.846), ("rbf", rbf, 0.543)):
        both = deep.wrong & other.wrong
        yield _agrees(f"{name} says maxout's class where both are wrong", deep, other, both, printed)
    both = softmax.wrong & rbf.wrong
    yield _agrees("rbf says softmax's class where both are wrong", softmax, rbf, both, 0.536)


def rounding(bench: Bench) -> Iterator[Line]:
    """FGSM by the gradient of the softmax in float32, as the paper's software had it: see `craft_rounded`."""
    for name, printed in ROUNDED.items():
        yield _attacked(f"{name}, FGSM rounded", bench.answers(name, bench.rounded(name)), printed)
    crafted = bench.rounded("maxout")
    there = bench.answers("adversarial", crafted)
    yield _attacked("adversarial, FGSM rounded on maxout", there, (0.196, None))
    deep, softmax = bench.answers("maxout", crafted), bench.answers("softmax", crafted)
    both = deep.wrong & softmax.wrong
    yield _agrees("softmax says maxout's class where both are wrong", deep, softmax, both, 0.846)


def _agrees(what: str, one: Answers, other: Answers, among: Tensor, printed: float) -> Line:
    same = (one.classes == other.classes)[among]
    return Line(what, float(same.double().mean()) if len(same) else None, None, (printed, None))


def _clean(bench: Bench, name: str, paper: Paper = UNKNOWN, called: str = "") -> Line:
    found = bench.answers(name)
    return Line(f"{called or name}, clean", found.error, found.mean_confidence, paper)


def _attacked(what: str, found: Answers, paper: Paper = UNKNOWN) -> Line:
    return Line(what, found.error, found.confidence_on_mistakes, paper)

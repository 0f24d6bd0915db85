"""The tables of the study: what was measured, a line each, beside what the paper printed."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from fastadv.studies.goodfellow2014.measure import STEPS, STRONGLY_TESTED, Answers, Bench

Paper = tuple[float | None, float | None]
UNKNOWN: Paper = (None, None)


@dataclass(frozen=True)
class Line:
    """An error (or an agreement) and a mean confidence, as shares; and the paper's, None where it has none.

    share is None where there was nothing to count. confidence is that on mistakes; on clean images that on
    all.
    """

    part: str
    what: str
    share: float | None
    confidence: float | None = None
    paper: Paper = UNKNOWN


def fgsm(bench: Bench) -> Iterator[Line]:
    """FGSM on networks trained as usual, without the box as in the paper, and within it."""
    paper = {
        "softmax": (0.999, 0.793),
        "maxout": (0.894, 0.976),
        "rbf": (0.554, 0.012),
        "quadratic": (0.307, None),
    }
    clean: dict[str, Paper] = {"maxout": (0.0094, None), "rbf": (None, 0.606), "quadratic": (0.0084, None)}
    for name in ("softmax", "maxout", "rbf", "quadratic"):
        yield _line("fgsm", f"{name}, clean", bench.answers(name), clean.get(name, UNKNOWN), everywhere=True)
        yield _line("fgsm", f"{name}, FGSM", bench.answers(name, bench.crafted(name)), paper[name])
        boxed = bench.answers(name, bench.crafted(name, boxed=True))
        yield _line("fgsm", f"{name}, FGSM within the box", boxed)


def ensemble(bench: Bench) -> Iterator[Line]:
    """Maxout networks that vote, attacked as one, and by examples for one of them."""
    size = bench.settings.members
    yield _line("ensemble", f"ensemble of {size}, clean", bench.answers("ensemble"), everywhere=True)
    together = bench.answers("ensemble", bench.crafted("ensemble"))
    yield _line("ensemble", "FGSM on the ensemble", together, (0.911, None))
    one = bench.answers("ensemble", bench.crafted("maxout"))
    yield _line("ensemble", "FGSM on one member", one, (0.879, None))


def adversarial(bench: Bench) -> Iterator[Line]:
    """Training on FGSM examples: clean error, its own FGSM, and examples that cross over."""
    paper = {"maxout": 0.0094, "adversarial": 0.0084, "large": 0.0114}
    large = [name for name in bench.nets.plans if name.startswith("large_adversarial")]
    for name in ("maxout", "adversarial", "large", *large):
        printed = paper.get(name, 0.00782)
        yield _line("adversarial", f"{name}, clean", bench.answers(name), (printed, None), everywhere=True)
    for name in ("adversarial", *large):
        own = bench.answers(name, bench.crafted(name))
        yield _line("adversarial", f"{name}, its own FGSM", own, (0.179, 0.814))
        there = bench.answers(name, bench.crafted("maxout"))
        yield _line("adversarial", f"{name}, FGSM on maxout", there, (0.196, None))
        back = bench.answers("maxout", bench.crafted(name))
        yield _line("adversarial", f"maxout, FGSM on {name}", back, (0.409, None))
        strong = 1 - bench.robust_accuracy(name)
        first = f", first {STRONGLY_TESTED} images" if len(bench.y) > STRONGLY_TESTED else ""
        yield Line("adversarial", f"{name}, PGD-{STEPS} within the box{first}", strong)


def controls(bench: Bench) -> Iterator[Line]:
    """Noise in place of FGSM, FGSM in a hidden layer, and L1 decay."""
    paper: dict[str, Paper] = {"noise_sign": (0.862, 0.973), "noise_uniform": (0.904, 0.978)}
    decayed = [name for name in bench.nets.plans if name.startswith("l1_")]
    for name in (*paper, "hidden_first", "hidden_last", *decayed):
        yield _line("controls", f"{name}, clean", bench.answers(name), everywhere=True)
        attacked = bench.answers(name, bench.crafted(name))
        yield _line("controls", f"{name}, FGSM", attacked, paper.get(name, UNKNOWN))


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
    paper: dict[str, Paper] = {
        "maxout": (0.894, 0.976),
        "noise_sign": (0.862, 0.973),
        "noise_uniform": (0.904, 0.978),
        "adversarial": (0.179, 0.814),
    }
    for name, printed in paper.items():
        found = bench.answers(name, bench.rounded(name))
        yield _line("rounding", f"{name}, FGSM rounded", found, printed)
    crafted = bench.rounded("maxout")
    there = bench.answers("adversarial", crafted)
    yield _line("rounding", "adversarial, FGSM rounded on maxout", there, (0.196, None))
    deep, softmax = bench.answers("maxout", crafted), bench.answers("softmax", crafted)
    what = "softmax says maxout's class where both are wrong"
    yield _agrees(what, deep, softmax, deep.wrong & softmax.wrong, 0.846, "rounding")


def _agrees(
    what: str, one: Answers, other: Answers, among: Tensor, printed: float, part: str = "agreement"
) -> Line:
    same = (one.classes == other.classes)[among]
    return Line(part, what, float(same.double().mean()) if len(same) else None, None, (printed, None))


def _line(part: str, what: str, found: Answers, paper: Paper = UNKNOWN, *, everywhere: bool = False) -> Line:
    confidence = found.mean_confidence if everywhere else found.confidence_on_mistakes
    return Line(part, what, found.error, confidence, paper)

"""The study from first to last: every table, a line for what was measured, beside what the paper printed."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import fastadv as fa
from fastadv.data import ImageSet
from fastadv.runs.work import Keeper
from papers.goodfellow2014 import figures
from papers.goodfellow2014.bench import STEPS, STRONGLY_TESTED, Answers, Bench, Line, Nets, Paper
from papers.goodfellow2014.figures import POINTS, RADIUS, first_layer, shown, spread
from papers.goodfellow2014.logistic import two_digits
from papers.goodfellow2014.models import confidence
from papers.goodfellow2014.plan import LARGE, Settings
from papers.study import NO_BOX, Watch, publish, some_of, unwatched
from papers.text import in_markdown, percent

UNKNOWN: Paper = (None, None)
FOOLED = 1000  # images of noise that are led to each class
STEP = 0.25  # of each of their pixels; the paper names none
SURE = 0.5  # a model that is surer than this of a class is wrong
BATCH = 1000
TRACED = 4  # the class of the image in the paper's figure 4
DEGREES = (5.0, 10.0, 15.0, 20.0)
OTHERS = 10  # whose steps each image gets
ROUNDING = 1e-6  # what is left of a gradient along x, beside it
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
        yield _attacked(bench, f"{name}, FGSM", name, bench.crafted(name), attacked)
        yield _attacked(bench, f"{name}, FGSM within the box", name, bench.crafted(name, boxed=True))


def ensemble(bench: Bench) -> Iterator[Line]:
    """Maxout networks that vote, attacked as one, and by examples for one of them."""
    yield _clean(bench, "ensemble", called=f"ensemble of {bench.settings.members}")
    yield _attacked(bench, "FGSM on the ensemble", "ensemble", bench.crafted("ensemble"), (0.911, None))
    yield _attacked(bench, "FGSM on one member", "ensemble", bench.crafted("maxout"), (0.879, None))


def adversarial(bench: Bench) -> Iterator[Line]:
    """Training on FGSM examples: clean error, its own FGSM, and examples that cross over."""
    paper = {"maxout": 0.0094, "adversarial": 0.0084, "large": 0.0114}
    large = [name for name in bench.nets.plans if name.startswith(LARGE)]
    for name in (*paper, *large):
        yield _clean(bench, name, (paper.get(name, 0.00782), None))
    for name in ("adversarial", *large):
        own, usual = bench.crafted(name), bench.crafted("maxout")
        yield _attacked(bench, f"{name}, its own FGSM", name, own, (0.179, 0.814))
        yield _attacked(bench, f"{name}, FGSM on maxout", name, usual, (0.196, None))
        yield _attacked(bench, f"maxout, FGSM on {name}", "maxout", own, (0.409, None))
        first = f", first {STRONGLY_TESTED} images" if len(bench.y) > STRONGLY_TESTED else ""
        yield Line(f"{name}, PGD-{STEPS} within the box{first}", 1 - bench.robust_accuracy(name))


def controls(bench: Bench) -> Iterator[Line]:
    """Noise in place of FGSM, FGSM in a hidden layer, and L1 decay."""
    noise = ("noise_sign", "noise_uniform")
    decayed = [name for name in bench.nets.plans if name.startswith("l1_")]
    for name in (*noise, "hidden_first", "hidden_last", *decayed):
        yield _clean(bench, name)
        paper = ROUNDED[name] if name in noise else UNKNOWN
        yield _attacked(bench, f"{name}, FGSM", name, bench.crafted(name), paper)


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
        yield _attacked(bench, f"{name}, FGSM rounded", name, bench.rounded(name), printed)
    crafted = bench.rounded("maxout")
    yield _attacked(bench, "adversarial, FGSM rounded on maxout", "adversarial", crafted, (0.196, None))
    deep, softmax = bench.answers("maxout", crafted), bench.answers("softmax", crafted)
    both = deep.wrong & softmax.wrong
    yield _agrees("softmax says maxout's class where both are wrong", deep, softmax, both, 0.846)


def _agrees(what: str, one: Answers, other: Answers, among: Tensor, printed: float) -> Line:
    same = (one.classes == other.classes)[among]
    return Line(what, float(same.double().mean()) if len(same) else None, None, (printed, None))


def _clean(bench: Bench, name: str, paper: Paper = UNKNOWN, called: str = "") -> Line:
    found = bench.answers(name)
    return Line(f"{called or name}, clean", found.error, found.mean_confidence, paper)


def _attacked(bench: Bench, what: str, name: str, x: Tensor, paper: Paper = UNKNOWN) -> Line:
    found = bench.answers(name, x)
    return Line(what, found.error, found.confidence_on_mistakes, paper)


def first_layers(bench: Bench) -> Iterator[Line]:
    """Yield what the units of the first layer look at, after usual and after adversarial training."""
    chosen, shape = {name: bench.nets[name] for name in ("maxout", "adversarial")}, bench.test_set.shape
    titled = dict(zip(("standard", "FGSM-trained"), chosen.values(), strict=True))
    path = bench.figure("weights", "weights of the first layer")
    figures.weights(titled, shape, path)
    for name, model in chosen.items():
        weight = first_layer(model, shape)
        mean = float(spread(weight).mean())
        yield Line(f"{name}, pixels that a unit looks at", mean / weight[0, 0].numel())


def noises(bench: Bench) -> Iterator[Line]:
    """Gaussian noise: how often it is taken for a class, and led to one."""
    paper: dict[str, Paper] = {
        "maxout": (0.9835, 0.928), "sigmoids": (0.68, 0.879), "softmax": (0.598, 0.708), "rbf": (0.0, None),
        "rubbish": (0.0, None),
    }  # fmt: skip
    settings, shape, names = bench.settings, bench.test_set.shape, bench.test_set.classes
    details = bench.details["rubbish"] = {}
    for name, printed in paper.items():
        found = rubbish(bench.nets[name], shape, samples=settings.rubbish, seed=settings.seed)
        details[name] = found
        yield Line(name, found["error"], found["confidence"], printed)
    threat, samples = fa.Linf(STEP, box=NO_BOX), min(FOOLED, settings.rubbish)
    for name in ("maxout", "softmax"):
        model, seed = bench.nets[name], settings.seed
        led = fooling(model, shape, threat, classes=len(names), samples=samples, seed=seed)
        details[f"{name}, led"] = {"success": led}
        yield Line(f"{name}, led to a class by a step of {STEP:g}", sum(led) / len(led))


def noise(shape: Sequence[int], ids: Tensor, seed: int = 0) -> Tensor:
    return fa.rng.normal(math.prod(shape), fa.rng.derive(seed, "rubbish images"), ids).view(-1, *shape)


def rubbish(model: nn.Module, shape: Sequence[int], *, samples: int, seed: int = 0) -> dict[str, Any]:
    """Return how often `model` is more than half sure of some class of noise, which has none (appendix A)."""
    frozen, parts = fa.freeze(model), torch.split(_ids(model, samples), BATCH)
    chances = torch.cat([confidence(frozen, noise(shape, ids, seed)) for ids in parts])
    surest, chosen = chances.max(1)
    wrong = surest > SURE
    number = int(wrong.sum())
    counts = chosen[wrong].bincount(minlength=chances.shape[1]).tolist()
    return {
        "samples": samples,
        "error": number / samples,
        "confidence": float(surest[wrong].double().mean()) if number else None,
        "classes": [count / max(number, 1) for count in counts],
    }


def fooling(
    model: nn.Module, shape: Sequence[int], threat: fa.Threat, *, classes: int, samples: int, seed: int = 0
) -> list[float]:
    """Return how often one step in `threat` that raises log p(i) makes noise class i with probability 1/2."""
    frozen, ids = fa.freeze(model), _ids(model, samples)
    x, shares = noise(shape, ids, seed), []

    def likelier(logits: Tensor, y: Tensor, targets: Tensor | None) -> Tensor:
        assert targets is not None
        return fa.losses.log_confidence(model, logits).gather(1, targets[:, None]).squeeze(1)

    for target in range(classes):
        targets = torch.full_like(ids, target)
        # noise has no label, and an attack asks for one that is not the target
        out = fa.attacks.fgsm(
            frozen, x, (targets == 0).long(), threat, loss=likelier, ids=ids, targets=targets,
            criterion=fa.attacks.ConfidentlyWrong(SURE),
        )  # fmt: skip
        shares.append(float(out.success.double().mean()))
    return shares


def _ids(model: nn.Module, samples: int) -> Tensor:
    return torch.arange(samples, device=next(model.parameters()).device)


def directions(bench: Bench) -> Iterator[Line]:
    """Yield the FGSM direction far out, on other images, and as a rotation; all of the maxout network."""
    model, settings = bench.nets["maxout"], bench.settings
    places = (bench.y == TRACED).nonzero()
    radii, logits, images = trace(model, bench.x[int(places[0])], TRACED)
    figures.trace(radii, logits, images, TRACED, bench.figure("trace", "logits along the direction of FGSM"))
    exchanged = reuse(model, bench.x, bench.y, settings.threat, seed=settings.seed)
    yield Line("the step of another image", exchanged, None, (0.462, None))
    turned = rotation(model, bench.x, bench.y, DEGREES)
    for angle, error in zip(DEGREES, turned, strict=True):
        yield Line(f"turned by {angle:g} degrees towards the gradient", error)


def _error(frozen: fa.Frozen, x: Tensor, y: Tensor) -> float:
    return float((frozen.verdict(x).argmax(1) != y).double().mean())


def reuse(model: nn.Module, x: Tensor, y: Tensor, threat: fa.Threat, *, seed: int = 0) -> float:
    """Return the share of errors when each image takes the FGSM steps of OTHERS others, drawn at random."""
    frozen, places = fa.freeze(model), torch.arange(len(x), device=x.device)
    gradient = frozen.input_gradient(x, y, direction=True)[2]
    errors = []
    for draw in range(OTHERS):
        away = fa.rng.integers(len(x) - 1, fa.rng.derive(seed, "reuse"), places, draw) + 1
        moved = threat.step(x, gradient[(places + away) % len(x)], x, threat.default_step_size(1))
        errors.append(_error(frozen, moved, y))
    return sum(errors) / OTHERS


def rotated(x: Tensor, gradient: Tensor, angle: float) -> Tensor:
    """Return x [B, ...] turned by `angle` radians towards its gradient; x where that is 0 or along x."""
    flat, way = x.flatten(1), gradient.flatten(1)
    length = flat.norm(dim=1, keepdim=True)
    # scaled first, since a gradient may be too small to be squared
    way = way / way.abs().amax(1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    along = flat / length.clamp(min=torch.finfo(x.dtype).tiny)
    across = way - (way * along).sum(1, keepdim=True) * along
    size = across.norm(dim=1, keepdim=True)
    turned = math.cos(angle) * flat + math.sin(angle) * length * across / size
    return torch.where(size > ROUNDING * way.norm(dim=1, keepdim=True), turned, flat).view_as(x)


def rotation(model: nn.Module, x: Tensor, y: Tensor, degrees: Sequence[float]) -> list[float]:
    frozen = fa.freeze(model)
    gradient = frozen.input_gradient(x, y, direction=True)[2]
    return [_error(frozen, rotated(x, gradient, math.radians(angle)), y) for angle in degrees]


def trace(model: nn.Module, x: Tensor, y: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return radii [N], logits [N, K] so far along the FGSM direction of x, and the images that are drawn."""
    frozen, label = fa.freeze(model), torch.full((1,), y, device=x.device)
    sign = frozen.input_gradient(x[None], label, direction=True)[2].sign()
    radii = RADIUS * torch.arange(-POINTS, POINTS + 1, dtype=torch.float64) / POINTS
    images = x + radii.to(x).view(-1, 1, 1, 1) * sign
    return radii, frozen.verdict(images).cpu().double(), images[shown(radii)]


TABLES: dict[str, Callable[[Bench], Iterator[Line]]] = {
    "fgsm": fgsm,
    "logistic": two_digits,
    "adversarial": adversarial,
    "controls": controls,
    "weights": first_layers,
    "agreement": agreement,
    "rounding": rounding,
    "directions": directions,
    "ensemble": ensemble,
    "rubbish": noises,
}
PARTS = tuple(TABLES)
Result = Mapping[str, Any]


def run(
    settings: Settings,
    train_set: ImageSet,
    test_set: ImageSet,
    folder: Path,
    watch: Watch = unwatched,
    *,
    parts: Sequence[str] = PARTS,
    device: torch.device | None = None,
) -> dict[str, Any]:
    """Do these parts in `folder`: write results.json, report.md and figures there, and return the results."""
    parts = some_of("parts", parts, PARTS)
    with Keeper(folder) as keeper:
        nets = Nets(settings, train_set, folder / "nets", watch, device)
        bench, lines = Bench(nets, test_set, folder), []
        for place, part in enumerate(parts):
            watch(part, place, len(parts))
            lines += [{"part": part, **asdict(line)} for line in TABLES[part](bench)]
        sets = {"train": train_set.describe(), "test": test_set.describe()}
        return publish(
            keeper, "study goodfellow", {**asdict(settings), "parts": list(parts), **sets}, markdown,
            lines=lines, tested=len(bench.y), nets=nets.told(), details=bench.details, figures=bench.figures,
        )  # fmt: skip


def table(result: Result, part: str) -> list[list[str]]:
    cells = [["", "share", "paper", "confidence", "paper"]]
    for line in result["measured"]["lines"]:
        if line["part"] == part:
            share, confidence = line["paper"]
            shares = percent(line["share"], 2), percent(share, 2)
            cells.append([line["what"], *shares, percent(line["confidence"]), percent(confidence)])
    return cells


def networks(result: Result) -> list[list[str]]:
    told = sorted(result["measured"]["nets"].items())
    lines = [[name, str(net["epochs"]), f"{net['seconds']:.0f}", net["stopped"] or "-"] for name, net in told]
    return [["network", "epochs", "seconds", "stopped"], *lines]


def notes(result: Result) -> list[str]:
    config, measured = result["config"], result["measured"]
    return [
        f"{config['test']['name']}, {measured['tested']} test images, FGSM at L-infinity "
        f"{config['radius']:g}, seed {config['seed']}; where nothing else is said nothing is clipped, as in "
        "the paper",
        "share: of errors (agreement: of equal answers); confidence: the mean largest probability, on "
        "mistakes, on clean images on all; an error on rubbish is to be surer than 50% of some class",
    ]


def markdown(result: Result) -> str:
    pieces = ["# Explaining and harnessing adversarial examples", *notes(result)]
    for part in result["config"]["parts"]:
        pieces.append(f"## {part.capitalize()}\n\n{in_markdown(table(result, part))}")
    return "\n\n".join([*pieces, f"## Networks\n\n{in_markdown(networks(result))}"]) + "\n"

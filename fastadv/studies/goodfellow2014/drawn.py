"""The parts of the study that also draw: logistic regression, directions, rubbish, weights."""

from collections.abc import Iterator

import fastadv as fa
from fastadv.errors import InputError
from fastadv.ops._rows import NO_BOX
from fastadv.studies.goodfellow2014 import logistic_figure, reuse, rotation, rubbish, trace, weights
from fastadv.studies.goodfellow2014.logistic import CLASSES, logistic
from fastadv.studies.goodfellow2014.measure import Bench
from fastadv.studies.goodfellow2014.tables import Line, Paper

TRACED = 4  # the class of the image in the paper's figure 4
DEGREES = (5.0, 10.0, 15.0, 20.0)
FOOLED = 1000  # images of noise that are led to each class
STEP = 0.25  # of each of their pixels; the paper names none


def two_digits(bench: Bench) -> Iterator[Line]:
    """Logistic regression of 3 against 7: its worst case in closed form, and L1 decay."""
    train_set, test_set = bench.nets.train_set.only(CLASSES), bench.test_set.only(CLASSES)
    settings = bench.settings
    found = logistic(
        train_set, test_set, bench.folder / "logistic",
        radius=settings.radius, epochs=settings.shallow_epochs, seed=settings.seed, watch=bench.watch,
    )  # fmt: skip
    bench.details["logistic"] = found
    logistic_figure.draw(found, bench.figure("logistic", "logistic regression"))
    for name, net in found["nets"].items():
        last, plain = net["rows"][-1], name == "plain"
        yield Line("logistic", f"{name}, clean", last["clean"], None, (0.016 if plain else None, None))
        yield Line("logistic", f"{name}, FGSM", last["fgsm"], None, (0.99 if plain else None, None))


def first_layers(bench: Bench) -> Iterator[Line]:
    """Yield what the units of the first layer look at, after usual and after adversarial training."""
    chosen = {name: bench.net(name) for name in ("maxout", "adversarial")}
    shape = bench.test_set.shape
    path = bench.figure("weights", "weights of the first layer")
    weights.draw(chosen, shape, path, bench.settings.seed)
    details = bench.details["weights"] = {}
    for name, model in chosen.items():
        details[name] = found = weights.localization(model, shape)
        yield Line("weights", f"{name}, pixels that a unit looks at", found["mean"] / found["pixels"])


def directions(bench: Bench) -> Iterator[Line]:
    """Yield the FGSM direction far out, on other images, and as a rotation; all of the maxout network."""
    model, threat, seed = bench.net("maxout"), bench.settings.threat, bench.settings.seed
    places = (bench.y == TRACED).nonzero()
    if not len(places):
        raise InputError(f"tested: expected a test image of class {TRACED}, got none; take more images")
    place = int(places[0])
    traced = trace.trace(model, bench.x[place], TRACED)
    path = bench.figure("trace", "logits along the direction of FGSM")
    trace.draw(traced, *trace.shown(model, bench.x[place], TRACED), path)
    exchanged = reuse.reuse(model, bench.x, bench.y, threat, seed=seed)
    yield Line("directions", "the step of another image", exchanged["error"], None, (0.462, None))
    turned = rotation.rotation(model, bench.x, bench.y, DEGREES)
    for angle, error in zip(DEGREES, turned["error"], strict=True):
        yield Line("directions", f"turned by {angle:g} degrees towards the gradient", error)
    # the curve itself is in the figure
    bench.details["directions"] = {
        "trace": {name: traced[name] for name in ("label", "right", "straight")},
        "reuse": exchanged,
        "rotation": turned,
    }


def noise(bench: Bench) -> Iterator[Line]:
    """Gaussian noise: how often it is taken for a class, and led to one."""
    paper: dict[str, Paper] = {
        "maxout": (0.9835, 0.928), "sigmoids": (0.68, 0.879), "softmax": (0.598, 0.708), "rbf": (0.0, None),
        "rubbish": (0.0, None),
    }  # fmt: skip
    settings, shape = bench.settings, bench.test_set.shape
    details = bench.details["rubbish"] = {}
    for name in paper:
        found = rubbish.rubbish(bench.net(name), shape, samples=settings.rubbish, seed=settings.seed)
        details[name] = found
        yield Line("rubbish", name, found["error"], found["confidence"], paper[name])
    threat, classes = fa.Linf(STEP, box=NO_BOX), bench.test_set.classes
    samples = min(FOOLED, settings.rubbish)
    for name in ("maxout", "softmax"):
        led = rubbish.fooling(
            bench.net(name), shape, threat, classes=len(classes), samples=samples, seed=settings.seed
        )
        details[f"{name}, led"] = led
        yield Line("rubbish", f"{name}, led to a class by a step of {STEP:g}", led["mean"])
    rows = rubbish.rows(bench.net("maxout"), shape, threat, classes, settings.seed)
    rubbish.draw(rows, bench.figure("rubbish", "noise led to each class"))

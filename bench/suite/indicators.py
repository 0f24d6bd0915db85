"""Write docs/indicators.md: which defenses raise which flags, and what looking for them costs.

    python -m bench.suite.indicators [--samples 359] [--radius 0.1] [--data-dir DIR] [--weights FILE]

The nets are those of tests/attacks/masking/nets.py, on the digits, each under APGD with 100 steps in
L-infinity; the cost is that on the MNIST CNN of Schott et al. under AutoAttack. Some minutes of one core.
"""

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import torch

import fastadv as fa
from bench.records import parser
from fastadv.attacks.masking import probes
from fastadv.attacks.masking.indicators import LEAST
from fastadv.attacks.methods.flags import SIGNS
from fastadv.errors import NoGradientError
from fastadv.evaluation.text import in_markdown, percent
from fastadv.runs.card import machine
from tests.attacks.masking.nets import DEFENSES, HONEST, honest
from tests.parity.models import ROOT, add_places, images, published_cnn

PAGE = ROOT / "docs" / "indicators.md"
SLOW = {"abs": 24}  # samples of nets that take long
COSTS = ((100, 0.1), (200, 0.1))  # images and radii
ABOUT = """# Indicators of masked gradients

An attack that fails says little where a model hides its gradients. `fa.evaluate` and
`fa.attacks.autoattack` look for signs of that, and end with one line: `No sign of masking`, or `Do not
trust: FLAGS; next: ADVICE`. Where something could not be looked at (few samples, no attack by gradients, an
infinite radius, targets), the line begins with `Not known` and says what and why. `table.indicators` has
the values, `fa.attacks.indicators` computes them for a batch, `fastadv evaluate --strict` ends with exit
code 3 unless there is no sign, and `--no-indicators` or `indicators=False` switches them off.

They come from what the results hold, and from probes of at most 200 samples that the model gets right. As
many are probed as surely cost at most 5% of the attacks' forward and backward passes, but always eight, so
that short attacks have a verdict, too: these take at most {floor:,} passes, as a rule half of that. Fewer
than eight say nothing.

"""
SOURCES = {
    "incorrect_gradient": "Athalye et al. 2018",
    **dict.fromkeys(("randomized", "probabilities", "optimizes", "square"), "Croce & Hein 2020"),
    **dict.fromkeys(("budget", "noise"), "Carlini et al. 2019"),
}
MEANING = """
The values are shares of samples, or 1 for a yes. `silent_success` is always 0: attacks keep the best point
they met, and each result is proved on the model as given. More steps can break no fewer samples for the same
reason, so `budget` compares the radius with its double alone. `zero_gradient` is the plain cross-entropy's,
which underflows for logits of a large scale; the attacks of this library do not lose it there, those of
others do. `unstable` is the mean over noise of min(1, |m(x + u) - m(x)| / |m(x)|), m the margin, u uniform
and 8/255 wide, 10 draws for each of up to 200 samples; Pintor et al. take the cross-entropy, by which the
deep network (0.19) is hardly apart from MeanSparse (0.27). `incomplete` is the share of the rise of the loss
that came with the last tenth of the gradients, at most ten, over all samples, of which broken ones count 0.
`optimizes` is the share of samples whose gradient is not that of the loss where a forward pass optimizes
something.

`incorrect_gradient` is 1 where `fastadv.attacks.masked_modules` blames a module ([Defenses that hide their
gradients](masked.md)); the verdict then names it, and the gradient that `bpda` is to give it. Each module is
looked at as far as {naming} passes a sample suffice. Otherwise it says how much of the changes of the logits
the gradient misses, a model that is a plain function included. From x to a random image, {ways}, the change
of a random sum of the logits less the gradients on that way, added up, leaves something over. Of a cut part,
both halves of the way leave over the same: the mean of their product, over that of the squared changes, is
the value. Kinks, ties and saturation leave over next to nothing; rounding with a straight-through gradient
and randomness turn round from half to half. Both look at eight samples. Where `bpda` has replaced a
gradient, it is known not to be that of the logits: only modules are then looked at, and `unstable`, which is
about the loss and not about the gradient, is left out.

Where an attack was given a model as `bpda`, such as `autoattack(version="strong", bpda=mended)`, and the
model itself shows a sign, the indicators are those of `mended`. The verdict says what the model itself
raised, and which modules were replaced: `Masked gradients (...), attacked through BPDA: quantize (identity):
no sign of masking there`. An attack that needs a gradient where the model has none leaves an evaluation
going: it breaks nothing, a flag says that it was not possible, and the verdict is `Do not trust:
zero_gradient, ...`.

The limit of `unstable` is the one that Pintor et al. propose; those of `incorrect_gradient` and `square` were
chosen on the networks below.

`No sign of masking` is no proof: a gradient can be that of the logits, and lead nowhere.

"""


def outcome(name: str, samples: int, radius: float) -> tuple[float, fa.attacks.Indicators]:
    """The robust accuracy under APGD, NaN where it cannot run, and the indicators."""
    test = fa.data.load("digits", "test", limit=SLOW.get(name, samples))
    model = fa.freeze(honest(name) if name in HONEST else DEFENSES[name][0]())
    threat, results = fa.Linf(radius), {}
    with contextlib.suppress(NoGradientError):
        results["apgd"] = fa.attacks.apgd(model, test.x, test.y, threat, steps=100)
    found = fa.attacks.indicators(model, test.x, test.y, threat, results=results, share=None)
    robust = float((~results["apgd"].success).double().mean()) if results else float("nan")
    return robust, found


def lines(samples: int, radius: float) -> Iterator[list[str]]:
    """The table: a line for each net."""
    names = [name for name in SIGNS if name not in ("silent_success", "transfer")]
    yield ["net", "under APGD", *names, "transfer", "flags"]
    for name in (*HONEST, *DEFENSES):
        robust, found = outcome(name, samples, radius)
        cells = []
        for sign in (*names, "transfer"):
            value = found.values.get(sign)
            text = "-" if value is None else f"{value:.2g}"
            cells.append(f"**{text}**" if sign in found.flagged else text)
        yield [name, percent(robust), *cells, str(len(found.flagged))]


def cost(options: Any) -> Iterator[list[str]]:
    """Passes and seconds of `standard`, and of its indicators."""
    yield [
        "images",
        "radius",
        "robust",
        "probed",
        "passes",
        "of the indicators",
        "seconds",
        "of the indicators",
    ]
    model = fa.freeze(published_cnn(options.weights))
    for count, radius in COSTS:
        x, y = images(count, data_dir=options.data_dir)
        started = time.perf_counter()
        out = fa.attacks.autoattack(model, x, y, fa.Linf(radius))
        seconds = time.perf_counter() - started
        started = time.perf_counter()
        fa.attacks.indicators(model, x, y, fa.Linf(radius), results={"autoattack": out})
        own_seconds = time.perf_counter() - started
        signs = out.indicators
        assert signs is not None
        passes, own = out.forwards + out.backwards, signs.forwards + signs.backwards
        yield [
            str(count), f"{radius:g}", percent(float((~out.success).double().mean())), str(signs.samples),
            f"{passes - own:,}", f"{own:,} ({own / (passes - own):.1%})", f"{seconds:.1f}",
            f"{own_seconds:.2f} ({own_seconds / seconds:.1%})",
        ]  # fmt: skip


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--samples", type=int, default=359)
    options.add_argument("--radius", type=float, default=0.1)
    add_places(options)
    given = options.parse_args()
    torch.set_num_threads(1)
    signs = [["indicator", "what is flagged", "above", "next", "source"]]
    for name, sign in SIGNS.items():
        source = SOURCES.get(name, "Pintor et al. 2022")
        signs.append([f"`{name}`", sign.words, f"{sign.limit:g}", sign.advice, source])
    where = f"{machine()['cpu']}, one thread, seed 0, {datetime.now(UTC):%Y-%m-%d}"
    parts = [
        ABOUT.format(floor=LEAST * (probes.HELD + probes.CHECKED)) + in_markdown(signs) + "\n",
        MEANING.format(naming=probes.NAMING, ways=" and ".join(f"{way:.0%}" for way in probes.WAYS)),
        f"## Defenses and flags\n\nBy `python -m bench.suite.indicators`; {where}. L∞ {given.radius:g}, ",
        f"the first {given.samples} digits of the test set ({SLOW['abs']} for ABS); flagged values are bold,",
        " a dash is what was not looked at. The first eight nets are honest.\n\n",
        in_markdown(list(lines(given.samples, given.radius))),
        f'\n\n## Cost\n\nBeside `autoattack(version="standard")` on the published MNIST CNN; {where}.\n\n',
        in_markdown(list(cost(given))) + "\n",
    ]
    PAGE.write_text("".join(parts))


if __name__ == "__main__":
    main()

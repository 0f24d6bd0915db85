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
from fastadv.runs.card import machine
from fastadv.text import in_markdown, percent
from tests.attacks.masking.nets import DEFENSES, HONEST, honest
from tests.parity.models import ROOT, add_places, images, published_cnn

PAGE = ROOT / "docs" / "indicators.md"
SLOW = {"abs": 24}  # samples of nets that take long
COSTS = ((100, 0.1), (200, 0.1))  # images and radii
ABOUT = """# Indicators of masked gradients

If a model hides its gradients, an attack that fails says little. `fa.evaluate` and
`fa.attacks.autoattack` look for signs of hidden gradients, and end with one line: `No sign of masking`,
or `Do not trust: FLAGS; next: ADVICE`, with the number of samples probed. If a sign could not
be checked (few samples, no gradient attack, an infinite radius, targets), the line begins with `Not
known` and says which and why. `table.indicators`
has the values. `fa.attacks.indicators` computes them for a batch. `fastadv evaluate --strict` ends with
exit code 3 if there is a sign or a sign could not be checked. `--no-indicators` or `indicators=False`
switches the indicators off.

The values come from the results of the attacks, and from probes of at most 200 samples that the model
classifies correctly. The number of probed samples is chosen so that probes cost at most 5% of the
attacks' forward and backward passes. But at least eight samples are probed, so that short attacks have a
verdict, too; eight samples take at most {floor:,} passes, and usually half of that. Fewer than eight
samples give no verdict.

"""
SOURCES = {
    "incorrect_gradient": "Athalye et al. 2018",
    **dict.fromkeys(("randomized", "probabilities", "optimizes", "square"), "Croce & Hein 2020"),
}
MEANING = """The values are shares of samples, or 1 for "yes".

- A share of samples is flagged where the lower end of its 95% interval is above the limit. `square` counts
  what Square broke and gradients left; beside attacks by gradients in an evaluation, it must also break
  more alone than they do, by more than chance (McNemar). First try a stronger attack by gradients.
- `randomized` looks at two backward passes, too.
- `incomplete` and `square` look at what attacks left. If the strongest of those by gradients ascended
  `loss="ce"` on [logits that are nearly alike](masked.md#logits-that-are-nearly-alike), this says nothing of
  the model: they count as not looked at, and the verdict is `Not known`.
- `zero_gradient` looks at the gradient of the plain cross-entropy, which underflows for logits of a large
  scale. The attacks of this library avoid that underflow; those of others do not.
- `incomplete` is the share of the rise of the loss that came with the last tenth of the gradients, at most
  ten. It is a mean over all samples, in which broken ones count 0.
- `optimizes` applies if a forward pass optimizes something. It is the share of samples whose gradient is not
  that of the loss.

`incorrect_gradient` is 1 if `fastadv.attacks.masked_modules` names a module ([Defenses that hide their
gradients](masked.md)); the verdict then names it, and the gradient that `bpda` should give it. The search
for modules takes at most {naming} passes a sample. Otherwise the value says how much of the change of the
logits the gradient misses; this works also for a model that is a plain function. The test goes from x
towards a random image, {ways} of the way. It takes the change of a random sum of the logits along each
half of the way, and subtracts the integral of the gradient. For a cut part, the two halves leave the same
remainder. So the value is the mean product of the two remainders, divided by that of the squared changes.
Kinks, ties and saturation leave hardly any remainder; for rounding with a straight-through gradient and
for randomness, the remainders of the two halves have different signs. Both tests use eight samples. The
limits of `incorrect_gradient` and `square` were chosen on the networks below.

If `bpda` has replaced a gradient, that gradient is known to differ from that of the logits. Then only
modules are checked. If an attack was given a model as `bpda`, such as
`autoattack(version="strong", bpda=mended)`, and the model itself shows a sign, the indicators are those
of `mended`. The verdict says what the model itself raised,
and which modules were replaced: `Masked gradients (...), attacked through BPDA: quantize (identity): no
sign of masking there`.

If an attack needs a gradient and the model has none, the evaluation continues. The attack breaks nothing, a
flag says that it was not possible, and the verdict is `Do not trust: zero_gradient, ...`.

`No sign of masking` is no proof: a gradient can be that of the logits and still be useless for an attack.

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
    yield ["net", "under APGD", *SIGNS, "flags"]
    for name in (*HONEST, *DEFENSES):
        robust, found = outcome(name, samples, radius)
        cells = []
        for sign in SIGNS:
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
        " a dash marks what was not checked. The first eight networks do not hide their gradients.\n\n",
        in_markdown(list(lines(given.samples, given.radius))),
        '\n\n## Cost\n\nMeasured with `autoattack(version="standard")` on the published MNIST CNN; ',
        f"{where}.\n\n",
        in_markdown(list(cost(given))) + "\n",
    ]
    PAGE.write_text("".join(parts))


if __name__ == "__main__":
    main()

"""Write docs/indicators.md, what the signs are, and bench/results/indicators.md, which defenses raise which.

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

PAGE, TABLES = ROOT / "docs" / "indicators.md", ROOT / "bench" / "results" / "indicators.md"
SLOW = {"abs": 24}  # samples of nets that take long
COSTS = ((100, 0.1), (200, 0.1))  # images and radii
ABOUT = """# Indicators of masked gradients

If a model hides its gradients, a failed attack says little. `fa.evaluate` and `fa.attacks.autoattack` look
for signs of this and end with one line: `No sign of masking`; or `Do not trust: FLAGS; next: ADVICE`; or
`Not known` and the checks that could not run, for example with few samples, an infinite radius, or no
gradient attack. `table.indicators` has the values, and `fa.attacks.indicators` computes them for a batch.
`fastadv evaluate --strict` exits with code 3 unless the line is `No sign of masking`. `indicators=False` or
`--no-indicators` switches all of this off.

The values come from the attacks' results and from probes of 8 to 200 samples that the model classifies
correctly, as many as cost at most 5% of the attacks' passes. Eight samples cost at most {floor:,} passes,
usually half of that. Fewer than eight give no verdict.

"""
SOURCES = {
    "incorrect_gradient": "Athalye et al. 2018",
    **dict.fromkeys(("randomized", "probabilities", "optimizes", "square"), "Croce & Hein 2020"),
}
MEANING = """Values are shares of samples, or 1 for "yes". A share is flagged if the lower end of its 95%
interval is above the limit.

- `randomized` compares two forward and two backward passes.
- `square` counts what Square broke and gradient attacks left. In an evaluation, Square must also break more
  than they do, beyond chance (McNemar).
- `incomplete` is the share of the rise of the loss that came with the last tenth of the gradients, at most
  ten, as a mean over all samples. Broken samples count 0.
- `incomplete` and `square` do not count if the strongest gradient attack ascended `loss="ce"` on
  [logits that are nearly alike](masked.md#logits-that-are-nearly-alike). The verdict is then `Not known`.
- `zero_gradient` looks at plain cross-entropy, whose gradient underflows for large logits. The attacks of
  this library avoid that; those of others do not.
- `optimizes` is the share of samples whose gradient is not that of the loss, if a forward pass optimizes
  something.
- `incorrect_gradient` is 1 if `masked_modules` names [a module](masked.md), with at most {naming} passes a
  sample. Otherwise it is the part of the change of the logits that the gradient misses, also for a plain
  function. The test moves x towards a random image, {ways} of the way, and subtracts the integral of the
  gradient from the change of a random sum of the logits, along each half of the way. A cut part leaves the
  same remainder in both halves, so the value is the mean product of the remainders, divided by that of the
  squared changes. Kinks and saturation leave hardly any; straight-through rounding and randomness leave
  remainders of different signs.

A gradient that `bpda` replaced is known to differ from that of the logits, so only modules are checked. If an
attack got such a model (`autoattack(version="strong", bpda=mended)`) and the given model shows a sign, the
indicators are those of `mended`, and the verdict names both: `Masked gradients (...), attacked through BPDA:
quantize (identity): no sign of masking there`. If the model has no gradient at all, the evaluation continues
with a flag, and gradient attacks break nothing.

`No sign of masking` is no proof: a gradient can be correct and still be useless for an attack.

[Which defenses raise which flags](../bench/results/indicators.md), measured on 24 networks, of which eight
hide nothing and raise none, also has the cost: 2.4% of the passes of AutoAttack on 100 and 200 images.
"""


def page() -> str:
    """The page of the docs: each sign, and how it is measured."""
    signs = [["indicator", "what is flagged", "above", "next", "source"]]
    for name, sign in SIGNS.items():
        source = SOURCES.get(name, "Pintor et al. 2022")
        signs.append([f"`{name}`", sign.words, f"{sign.limit:g}", sign.advice, source])
    about = ABOUT.format(floor=LEAST * (probes.HELD + probes.CHECKED)) + in_markdown(signs) + "\n\n"
    ways = " and ".join(f"{way:.0%}" for way in probes.WAYS)
    return about + MEANING.format(naming=probes.NAMING, ways=ways)


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
    where = f"{machine()['cpu']}, one thread, seed 0, {datetime.now(UTC):%Y-%m-%d}"
    parts = [
        "# Indicators: defenses, flags and cost\n\n",
        "[Indicators](../../docs/indicators.md) explains each sign.\n\n",
        f"## Defenses and flags\n\nBy `python -m bench.suite.indicators`; {where}. L∞ {given.radius:g}, ",
        f"the first {given.samples} digits of the test set ({SLOW['abs']} for ABS); flagged values are bold,",
        " a dash marks what was not checked. The first eight networks do not hide their gradients.\n\n",
        in_markdown(list(lines(given.samples, given.radius))),
        '\n\n## Cost\n\nMeasured with `autoattack(version="standard")` on the published MNIST CNN; ',
        f"{where}.\n\n",
        in_markdown(list(cost(given))) + "\n",
    ]
    PAGE.write_text(page())
    TABLES.write_text("".join(parts))


if __name__ == "__main__":
    main()

"""Write the table of docs/indicators.md, and bench/results/indicators.md: which defenses raise which flags.

    python -m bench.suite.indicators [--samples 359] [--radius 0.1] [--data-dir DIR] [--weights FILE]

The nets are those of tests/attacks/masking/nets.py, on the digits, each under APGD with 100 steps in
L-infinity; the cost is that on the MNIST CNN of Schott et al. under AutoAttack. Some minutes of one core.
"""

import contextlib
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import torch

import fastadv as fa
from bench.clock import wall
from bench.records import parser
from fastadv.attacks.methods.flags import SIGNS
from fastadv.errors import NoGradientError
from fastadv.runs.card import machine
from fastadv.text import in_markdown, percent
from tests.attacks.masking.nets import DEFENSES, HONEST, honest
from tests.parity.models import ROOT, add_places, images, published_cnn

PAGE, TABLES = ROOT / "docs" / "indicators.md", ROOT / "bench" / "results" / "indicators.md"
SLOW = {"abs": 24}  # samples of nets that take long
COSTS = ((100, 0.1), (200, 0.1))  # images and radii
SOURCES = dict.fromkeys(("randomized", "probabilities", "optimizes", "square"), "Croce & Hein 2020")
SOURCES |= dict.fromkeys(("bounded_outputs", "edge_kink", "mixed_rows"), "reports of users")
SOURCES["incorrect_gradient"] = "Athalye et al. 2018"


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
    own = "of the indicators"
    yield ["images", "radius", "robust", "probed", "passes", own, "seconds", own]
    model = fa.freeze(published_cnn(options.weights))
    for count, radius in COSTS:
        x, y = images(count, data_dir=options.data_dir)
        seconds, out = wall(lambda: fa.attacks.autoattack(model, x, y, fa.Linf(radius)))  # noqa: B023
        own_seconds, _ = wall(
            lambda: fa.attacks.indicators(model, x, y, fa.Linf(radius), results={"autoattack": out})  # noqa: B023
        )
        signs = out.indicators
        own_passes = signs.forwards + signs.backwards
        passes = out.forwards + out.backwards - own_passes
        yield [
            str(count), f"{radius:g}", percent(float((~out.success).double().mean())), str(signs.samples),
            f"{passes:,}", f"{own_passes:,} ({own_passes / passes:.1%})", f"{seconds:.1f}",
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
    TABLES.write_text("".join(parts))
    begin, end = "<!-- signs -->\n", "<!-- /signs -->"
    before, _, rest = PAGE.read_text().partition(begin)
    PAGE.write_text(f"{before}{begin}\n{in_markdown(signs)}\n\n{end}{rest.partition(end)[2]}")


if __name__ == "__main__":
    main()

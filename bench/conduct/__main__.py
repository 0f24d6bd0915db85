"""Try the attacks of fastadv and of other libraries for fifteen mistakes, and write docs/pitfalls.md.

    python -m bench.conduct [--only torchattacks] [--out FILE] [--page]

Rows go to bench/results/conduct.jsonl, one for each attack and pitfall; those of the libraries that ran are
replaced. A library that is not installed keeps the rows it has. Some minutes of one core.
"""

import json
import logging
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import torch

from bench import records
from bench.conduct import page
from bench.conduct.attack import Attack
from bench.conduct.checks import Finding, said
from bench.conduct.libraries import LIBRARIES, attacks, version_of
from bench.conduct.pitfalls import PITFALLS, Pitfall
from bench.records import Row
from fastadv.runs.card import machine


def tried(pitfall: Pitfall, attack: Attack) -> Finding:
    """What the check finds; an error that it does not expect leaves the attack untried, and says which."""
    try:
        return pitfall.check(attack)
    except Exception as error:
        return Finding("not tried", said(error))


def measured(library: str) -> Iterator[Row]:
    about = {"version": version_of(library), "date": datetime.now(UTC).date().isoformat()}
    about |= {name: machine()[name] for name in ("torch", "commit", "cpu")}
    for attack in attacks(library):
        named = ", ".join(filter(None, (attack.name, attack.norm, attack.loss)))
        for number, pitfall in enumerate(PITFALLS, 1):
            seen = tried(pitfall, attack)
            yield {
                "library": library,
                "attack": named,
                "pitfall": number,
                "outcome": seen.outcome,
                "text": seen.text,
                **about,
            }


def main() -> None:
    parser = records.parser(__doc__, prog="python -m bench.conduct")
    parser.add_argument("--only", nargs="+", choices=LIBRARIES, default=list(LIBRARIES), metavar="LIBRARY")
    parser.add_argument(
        "--out", type=Path, default=page.STORE, help="the file of rows that is read and written"
    )
    parser.add_argument("--page", action="store_true", help="run nothing, and write the page from the rows")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    for library in () if options.page else options.only:
        try:
            new = list(measured(library))
        except ImportError as error:
            print(f"note: {library} is not installed; its rows stay as they are ({said(error)})", flush=True)
            continue
        kept = [row for row in records.recorded(options.out) if row["library"] != library]
        options.out.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in [*kept, *new]))
        print(f"{library}: {len(new)} rows", flush=True)
    if options.out == page.STORE:
        page.write()


if __name__ == "__main__":
    main()

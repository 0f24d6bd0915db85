"""From text such as `2:steps=3` to a ramp."""

import inspect

from fastadv.cli._options import parse_number, usage
from fastadv.cli._values import parse_arguments
from fastadv.train import Ramp

HELP = (
    "Epochs, or a share of them, in which the radius grows to --radius: 2, 0.1, or 2:radius=0.5,steps=3 to "
    "begin with half the radius and 3 steps."
)


def parse_ramp(text: str) -> Ramp:
    """Parse EPOCHS or EPOCHS:key=value,key=value. Wrong usage for text that cannot be understood."""
    count, _, tail = text.partition(":")
    where = f"ramp {text!r}"
    takes = {name: one for name, one in inspect.signature(Ramp).parameters.items() if name != "epochs"}
    arguments = parse_arguments(where, where, tail, takes)
    with usage():
        return Ramp(int(count) if count.isdigit() else parse_number(count), **arguments)

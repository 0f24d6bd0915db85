"""How figures are written: shares as percentages, numbers to three digits, a dash where there is none."""

import math


def percent(value: float | None) -> str:
    """A share from 0 to 1 as a percentage."""
    return "-" if value is None or math.isnan(value) else f"{100 * value:.1f}%"


def number(value: float | None) -> str:
    """A number to three digits."""
    return "-" if value is None or math.isnan(value) else f"{value:.3g}"

"""Figures as text."""


def number(value: float) -> str:
    """Two digits, or all before the point."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"


def duration(taken: float) -> str:
    """Milliseconds in a unit that suits them."""
    for unit, size in (("s", 1000.0), ("ms", 1.0)):
        if taken >= size:
            return f"{number(taken / size)} {unit}"
    return f"{number(taken * 1000)} µs"

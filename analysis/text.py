"""Numbers in sentences."""

import math


def counted(number: float, noun: str) -> str:
    """1 epoch, 2 epochs."""
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def shown(number: float, form: str = ".2f") -> str:
    """A number in a sentence; a question mark where it has no end."""
    return format(number, form) if math.isfinite(number) else "?"

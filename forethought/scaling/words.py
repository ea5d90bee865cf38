"""Numbers as a reader wants them."""

from __future__ import annotations

from forethought.scaling.measure import Estimate

MINUS = "\N{MINUS SIGN}"


def percent(estimate: Estimate) -> str:
    """`43.1 [39.9, 46.4]`, in per cent."""
    return f"{100 * estimate.value:.1f} [{100 * estimate.low:.1f}, {100 * estimate.high:.1f}]"


def points(value: float) -> str:
    """`+23.1`: a difference of shares in percentage points."""
    return f"{100 * value:+.1f}".replace("-", MINUS)


def short(value: float) -> str:
    """A count in about five characters: 950, 1.2k, 34k, 5.6M, 7.8B."""
    for size, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            scaled = value / size
            whole = abs(scaled) >= 99.5 or abs(scaled - round(scaled)) < 0.05
            return f"{scaled:.0f}{unit}" if whole else f"{scaled:.1f}{unit}"
    return f"{value:.0f}" if abs(value) >= 99.5 or value == int(value) else f"{value:.3g}"


def flops(value: float) -> str:
    """`5.3e13`, or a dash where there are none."""
    return f"{value:.1e}".replace("e+", "e") if value else "–"


def duration(seconds: float) -> str:
    """`42 s`, `2 min 10 s`, `1 h 5 min`, or a dash where there was none."""
    whole = round(seconds)
    if not seconds:
        return "–"
    if whole < 60:
        return f"{whole} s" if whole else "under 1 s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"


def counted(number: int, noun: str) -> str:
    """`1 problem`, `1,319 problems`."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")

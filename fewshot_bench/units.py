"""Times, rates and sizes as people read them."""

from __future__ import annotations

import math

_TIME_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs"))


def time_text(seconds: float) -> str:
    """A short time with its unit: "1.2 s", "20 ms", "5 µs"."""
    size, unit = next((pair for pair in _TIME_UNITS if seconds >= 0.999 * pair[0]), _TIME_UNITS[-1])
    return f"{seconds / size:.3g} {unit}" if seconds < 999.5 else f"{seconds:,.0f} s"


def duration_text(seconds: float) -> str:
    """A long time in its two largest units.

    >>> [duration_text(seconds) for seconds in (45, 720, 12_000, 187_200)]
    ['45 s', '12 min', '3 h 20', '2 d 4 h']
    """
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d}" if hours < 48 else f"{hours // 24:,} d {hours % 24} h"


def rate_text(rate: float) -> str:
    """A number per second, whole from 10 and with two significant digits below; "-" where it is unknown.

    For columns, where all rows need the same unit.

    >>> [rate_text(rate) for rate in (0, 0.0004, 0.38, 0.996, 9.96, 1234.5, math.nan)]
    ['0', '0.00040', '0.38', '1.0', '10', '1,234', '-']
    """
    if not math.isfinite(rate):
        return "-"
    rounded = abs(float(f"{rate:.1e}"))
    decimals = max(0, 1 - math.floor(math.log10(rounded))) if rounded else 0
    return f"{rate:,.{decimals}f}"


def speed_text(rate: float, unit: str) -> str:
    """A rate in words, for lines that stand alone: below one per second it is the time of one.

    Args:
        rate: per second.
        unit: one of what is counted, such as "image".

    >>> speed_text(1234.5, "image"), speed_text(0.38, "image")
    ('1,234 images/s', '2.63 s per image')
    """
    return f"{time_text(1 / rate)} per {unit}" if 0 < rate < 0.995 else f"{rate_text(rate)} {unit}s/s"


def bytes_text(count: float) -> str:
    """A number of bytes with its unit, in powers of 1000.

    >>> bytes_text(268_883_200), bytes_text(8e10)
    ('268.9 MB', '80.0 GB')
    """
    from rich import filesize  # which not every command needs

    return filesize.decimal(int(count))

"""How single numbers read."""

from __future__ import annotations

SIGNIFICANCE = 0.05


def verdict(difference: float, p: float) -> str:
    """What a paired test shows at the 5% level, in words."""
    if p >= SIGNIFICANCE or difference == 0:
        return "no difference shown"
    return "better" if difference > 0 else "worse"


def p_text(p: float) -> str:
    """A p-value; one too small for a double is not called 0."""
    return "< 1e-300" if p < 1e-300 else f"{p:.2g}"


def points(difference: float, low: float, high: float) -> str:
    """A difference in percentage points with its interval."""
    return f"{difference:+.2f} ({low:.2f} to {high:.2f})"


def value_text(value: object) -> str:
    """A hyper-parameter's value as people write it: 0.9, 1, 0.0001, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)

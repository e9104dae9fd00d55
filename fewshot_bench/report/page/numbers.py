"""How the numbers of the page are written: as text that a table can sort."""

from __future__ import annotations

from typing import Any

from markupsafe import Markup, escape

from fewshot_bench.report.page.definitions import Kind
from fewshot_bench.report.wording import p_text


def is_missing(value: Any) -> bool:
    """Whether there is no value: None or NaN."""
    return value is None or value != value


def number_text(value: Any, kind: Kind) -> Markup:
    """A value as the content of a table's cell, escaped; empty where there is none."""
    if is_missing(value):
        return Markup("")
    if kind == "text":
        return escape({True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value)
    if kind == "digest":
        return escape(value[:8])
    if kind == "count":
        return Markup(str(int(value)))
    if kind == "p":
        return Markup('<span data-p="{}">{}</span>').format(f"{value:.6g}", p_text(value))
    if kind == "number":
        return Markup(f"{value:.3g}")
    if kind == "bytes":
        return Markup(f"{value / 2**30:.2f}")
    return Markup(f"{value + 0.0:+.2f}" if kind == "points" else f"{value:.2f}")

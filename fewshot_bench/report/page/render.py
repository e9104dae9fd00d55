"""From what the page shows to its HTML."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby
from typing import Any

from fewshot_bench.report.best import Answer, answer_lines, answers
from fewshot_bench.report.page.content import PageContent
from fewshot_bench.report.page.finding import main_finding
from fewshot_bench.report.page.leaderboard_table import TABLE_ID, leaderboard_table
from fewshot_bench.report.page.protocols import rows_by_protocol
from fewshot_bench.report.page.run_card import run_card
from fewshot_bench.report.page.sections import FixedPlot, fixed_plots, protocol_plots
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.versions import __version__

_CONFIG = {"responsive": True, "displayModeBar": False, "displaylogo": False, "doubleClick": False}


@dataclass(frozen=True)
class Script:
    """A script of the page.

    Attributes:
        text: what stands between its tags.
        kind: its type; empty for a classic script.
        name: its id, if it needs one.
    """

    text: str
    kind: str = ""
    name: str = ""

    @property
    def digest(self) -> str:
        """By which the page's policy knows it."""
        return f"'sha256-{base64.b64encode(hashlib.sha256(self.text.encode()).digest()).decode()}'"


def page_html(content: PageContent, title: str) -> str:
    """The page as HTML, with everything in it that a browser needs.

    Only the scripts that are listed here by their digests may run, and nothing may be fetched: both are said in the
    page's content security policy.

    Args:
        content: as `gather` collects it.
        title: the heading.
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(
        loader=PackageLoader(__package__, "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    plots = protocol_plots(content)
    fixed = fixed_plots(content)
    table = leaderboard_table(content.frame, list(rows_by_protocol(content.frame).values()))
    tasks = {protocol.rows["protocol_fingerprint"].iloc[0]: protocol.name for protocol in content.protocols}
    scripts = [
        Script(table.library),
        Script(_plotly(), "text/plain", "plotly"),  # draw.js starts it when a figure comes near
        Script(_figures(plots.figures, fixed), "application/json", "figures"),
        Script(_own("draw.js")),
        Script(table.script, "module"),
    ]
    return environment.get_template("page.html.j2").render(
        title=title,
        version=__version__,
        policy=_policy(scripts),
        style=_own("style.css"),
        finding=main_finding(content),
        answers=_by_task(answers(content.frame)),
        facts=_facts(content),
        sections=_sections(content, plots.sections, fixed),
        table=table,
        all_columns=[*table.columns, *(column for column, _ in table.same)],
        table_id=TABLE_ID,
        has_transductive=bool(content.frame["is_transductive"].astype(bool).any()),
        has_published=bool((content.frame["source"] != MEASURED).any()),
        protocols=[protocol.name for protocol in content.protocols],
        plots=plots.sections,
        fixed_plots=fixed,
        cards=[run_card(name, cell, tasks.get(cell.protocol.fingerprint)) for name, cell in content.cells],
        cards_left_out=content.cells_left_out,
        scripts=scripts,
    )


def _by_task(found: Sequence[Answer]) -> list[list[str]]:
    """Which methods are best: for each protocol its question, then a sentence for each kind of method."""
    return [answer_lines(list(same)) for _, same in groupby(found, key=lambda one: one.protocol)]


def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _own(name: str) -> str:
    return files(__package__).joinpath(name).read_text(encoding="utf-8")


def _figures(protocols: Sequence[dict[str, Any]], fixed: Sequence[FixedPlot]) -> str:
    """The figures as JSON that cannot end the script it stands in."""
    together = {name: figure for plot in fixed for name, figure in plot.figures.items()}
    content = {"protocols": protocols, "fixed": together, "config": _CONFIG}
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, allow_nan=False, ensure_ascii=False)
    return text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


def _policy(scripts: Sequence[Script]) -> str:
    digests = " ".join(script.digest for script in scripts)
    return (
        f"default-src 'none'; script-src {digests} blob:; style-src 'unsafe-inline'; img-src data: blob:; "
        "font-src data:; connect-src 'none'; form-action 'none'; base-uri 'none'"
    )


def _facts(content: PageContent) -> str:
    measured = content.frame[content.frame["source"] == MEASURED]
    methods, datasets = measured["method"].nunique(), measured["dataset"].nunique()
    transductive = measured.loc[measured["is_transductive"].astype(bool), "method"].nunique()
    kinds = f" ({transductive:,} transductive)" if transductive else ""
    parts = [
        f"{_count(methods, 'method')}{kinds}",
        _count(datasets, "dataset"),
        _count(len(content.protocols), "protocol"),
    ]
    published = len(content.frame) - len(measured)
    if published:
        parts.append(_count(published, "published row"))
    return " · ".join(parts)


def _count(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _sections(content: PageContent, plots: Sequence[Any], fixed: Sequence[FixedPlot]) -> list[tuple[str, str]]:
    anchors = [("leaderboard", "Leaderboard")]
    anchors += [(plot.anchor, plot.heading) for plot in [*plots, *fixed]]
    if content.cells:
        anchors.append(("run-cards", "Run cards"))
    return [*anchors, ("definitions", "Definitions")]

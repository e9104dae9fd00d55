"""One self-contained HTML page: opened from a disk, it shows all results and needs no network."""

from fewshot_bench.report.page.content import (
    PageContent,
    Pairs,
    ProtocolResults,
    Quantiles,
    Ranking,
    SweepResults,
    gather,
)
from fewshot_bench.report.page.render import page_html, write_page

__all__ = [
    "PageContent",
    "Pairs",
    "ProtocolResults",
    "Quantiles",
    "Ranking",
    "SweepResults",
    "gather",
    "page_html",
    "write_page",
]

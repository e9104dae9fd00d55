"""Write the page of a results folder."""

from __future__ import annotations

import pandas as pd

from fewshot_bench.atomic import write_atomically
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.paths import Place
from fewshot_bench.report.page.content import PageContent
from fewshot_bench.report.page.gather import gather
from fewshot_bench.report.page.render import page_html
from fewshot_bench.report.update import current_leaderboard
from fewshot_bench.statistics import Correction

TITLE = "Few-shot results"


def write_page(
    results: Place,
    path: Place,
    *,
    baseline: str | None = None,
    correct: Correction = "holm",
    title: str = TITLE,
    frame: pd.DataFrame | None = None,
    store: OutcomeStore | None = None,
) -> PageContent:
    """Write everything that a results folder holds as one HTML file, all or nothing.

    The same outcomes give the same bytes; images, torch and a GPU are not needed.

    Args:
        results: the folder with `outcomes`; `leaderboard.csv` in it keeps baselines, `sweeps` are shown.
        path: the file; an older one is replaced.
        baseline: name of the method that the others are tested against.
        correct: how p is corrected for the number of tests on one protocol.
        title: the page's heading.
        frame: the current leaderboard, where it has been computed already.
        store: of these results, where it has been read already.

    Returns:
        What the page shows, for instance to draw it for a paper.

    Raises:
        OutcomeError: nothing is stored, or something is damaged.
        UnknownNameError: no method is called like the baseline.
        ComparisonError: the baseline's name fits several methods.
    """
    store = store or OutcomeStore(results / "outcomes")
    if frame is None:
        frame = current_leaderboard(store, results / "leaderboard.csv", baseline, correct=correct)
    content = gather(store, frame, results)
    write_atomically(path, page_html(content, title).encode())
    return content

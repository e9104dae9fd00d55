"""What the project publishes as measured is what its stored outcomes give."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import compare_methods, leaderboard, update_leaderboard
from fewshot_bench.report.verdicts import difference_text, p_text

FOLDER = Path(__file__).parents[2] / "results" / "cifar-fs-conv4-finetune"


def test_the_page_about_conv4_says_what_its_outcomes_say():
    store, page = OutcomeStore(FOLDER / "outcomes"), (FOLDER / "README.md").read_text(encoding="utf-8")
    (comparison,) = compare_methods(store, "schane", "episode-ce/finetune")
    assert comparison.test.n == 600
    assert comparison.headline in " ".join(page.split())
    for row in leaderboard(store, "episode-ce/").to_dict("records"):
        said = f"| {row['mean']:.2f} ± {row['ci95']:.2f} ± {row['data_ci95']:.2f} |"
        if row["p"] == row["p"]:
            ends = (row["difference"], row["diff_data_ci95_low"], row["diff_data_ci95_high"])
            said += f" {difference_text(*ends, row['diff_ci95_high'] - row['difference'])} |"
            said += f" {p_text(row['p_corrected'])} | {p_text(row['p_beyond_corrected'])} | {row['verdict']} |"
        assert said in page


def test_its_leaderboard_is_what_its_outcomes_give(tmp_path):
    again = tmp_path / "leaderboard.csv"
    store = OutcomeStore(FOLDER / "outcomes")
    update_leaderboard(store, again, "episode-ce/", with_published=False)
    (found, p), (stored, stored_p) = (_text_and_p(path) for path in (again, FOLDER / "leaderboard.csv"))
    assert found == stored
    assert p == pytest.approx(stored_p, rel=1e-9, nan_ok=True)  # the last digits are those of the machine


def _text_and_p(path: Path) -> tuple[list[dict[str, str]], list[float]]:
    """A leaderboard's cells, and its p values as numbers."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    p = [
        float(row.pop(column) or "nan")
        for row in rows
        for column in list(row)
        if re.fullmatch("p(_corrected|_beyond.*)?", column)
    ]
    return rows, p

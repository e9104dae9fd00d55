"""What the project publishes as measured is what its stored outcomes give."""

from __future__ import annotations

from pathlib import Path

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import compare_methods, leaderboard

FOLDER = Path(__file__).parents[2] / "results" / "cifar-fs-conv4-finetune"


def test_the_page_about_conv4_says_what_its_outcomes_say():
    store = OutcomeStore(FOLDER / "outcomes")
    (comparison,) = compare_methods(store, "schane", "episode-ce/finetune")
    test, page = comparison.test, (FOLDER / "README.md").read_text(encoding="utf-8")
    assert test.n == 600
    said = f"{100 * test.mean_difference:.2f} ({100 * test.ci_low:.2f} to {100 * test.ci_high:.2f}) | {test.p:.2f}"
    assert said in page
    for row in leaderboard(store).to_dict("records"):
        assert f"{row['mean']:.2f} ± {row['ci95']:.2f}" in page

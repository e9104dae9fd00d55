"""What the project publishes as measured is what its stored outcomes give."""

from __future__ import annotations

from pathlib import Path

from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.report import compare_methods, leaderboard, update_leaderboard

FOLDER = Path(__file__).parents[2] / "results" / "cifar-fs-conv4-finetune"


def test_the_page_about_conv4_says_what_its_outcomes_say():
    store, page = OutcomeStore(FOLDER / "outcomes"), (FOLDER / "README.md").read_text(encoding="utf-8")
    (comparison,) = compare_methods(store, "schane", "episode-ce/finetune")
    assert comparison.test.n == 600
    assert f"{100 * comparison.test.mean_difference:.2f} ± " in page
    for row in leaderboard(store, "episode-ce/").to_dict("records"):
        said = f"| {row['mean']:.2f} ± {row['ci95']:.2f} ± {row['data_ci95']:.2f} |"
        if row["p"] == row["p"]:
            task, data = (row[end] - row["difference"] for end in ("diff_ci95_high", "diff_data_ci95_high"))
            said += f" {row['difference']:.2f} ± {task:.2f} ± {data:.2f} | {row['p_corrected']:.2g} |"
        assert said in page


def test_its_leaderboard_is_what_its_outcomes_give(tmp_path):
    again = tmp_path / "leaderboard.csv"
    store = OutcomeStore(FOLDER / "outcomes")
    update_leaderboard(store, again, "episode-ce/", with_published=False)
    assert again.read_bytes() == (FOLDER / "leaderboard.csv").read_bytes()

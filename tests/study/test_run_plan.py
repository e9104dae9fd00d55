"""Several studies in one run: checked as a whole, divided by nothing, told of together."""

from __future__ import annotations

import pandas as pd
import pytest
import toy_sweeps

from fewshot_bench.errors import FewshotBenchError, StudyError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.study import StudyPlan, StudyResult, run_plan
from fewshot_bench.study.dry_run import estimate
from fewshot_bench.study.plan import Outputs, write_outputs
from fewshot_bench.study.resolved import ResolvedStudy
from fewshot_bench.study.run import run_resolved


@pytest.fixture(autouse=True)
def _toy(monkeypatch):
    toy_sweeps.use(toy_sweeps.toy_dataset(), monkeypatch)


def plan_of(results, *changes, baselines=None, outputs=None) -> StudyPlan:
    """Studies of the toy dataset that differ in some fields."""
    fields = {"adaptations": ("centroid",), "hyper_parameters": {}}
    studies = tuple(toy_sweeps.study(results, **fields | change) for change in changes)
    places = tuple(f"study.toml, line {number}" for number in range(1, len(studies) + 1))
    return StudyPlan(
        name="toy", studies=studies, places=places, baselines=baselines or {}, outputs=outputs or Outputs()
    )


@pytest.mark.slow
def test_methods_of_all_studies_share_one_leaderboard_and_one_baseline(tmp_path):
    both = {"adaptations": ("centroid", "logistic")}
    plan = plan_of(tmp_path, both, {"backbone": "conv4_64"}, both, baselines={"toy": "logistic"})
    result = run_plan(plan)
    names = [cell.method.name for cell in result.cells]
    assert names == ["conv4_32/centroid", "conv4_32/logistic", "conv4_64/centroid"], "each once, in order"
    assert len(result.results) == 3
    frame, places, _ = write_outputs(plan.outputs, tmp_path, result.cells, result.baselines)
    written = pd.read_csv(places["leaderboard"])
    assert written["baseline"].dropna().str.startswith("conv4_32/logistic").all()
    assert set(frame.loc[frame["p"].notna(), "method"]) == {names[0], names[2]}
    assert set(places) == {"leaderboard", "report"}


def test_without_a_baseline_the_first_method_of_the_file_is_it(tmp_path):
    result = run_plan(plan_of(tmp_path, {"backbone": "conv4_64"}, {}))
    assert [label.partition("#")[0] for label in result.baselines.values()] == ["conv4_64/centroid"]


@pytest.mark.parametrize(
    ("changes", "baselines", "sentence"),
    [
        ([{}, {"backbone": "conv5"}], {}, r"study\.toml, line 2: there is no backbone called 'conv5'"),
        ([{}, {"shots": (1, 9)}], {}, r"study\.toml, line 2: .*9"),
        ([{}, {"checkpoints": ("mine",), "backbone": None, "base_losses": None}], {}, "line 2: there is no checkpoint"),
        ([{}, {"hyper_parameters": {"C": 1}}], {}, "line 2: no adaptation of this study"),
        ([{}, {"max_episodes": 3}], {}, "line 2: --max-episodes"),
        ([{}], {"toy": "logistic"}, "baseline of toy: there is no method called 'logistic'"),
    ],
)
def test_what_is_wrong_with_a_later_study_is_found_before_the_first_begins(
    tmp_path, changes, baselines, sentence, monkeypatch
):
    monkeypatch.setattr("fewshot_bench.study.run.run_resolved", _never)
    with pytest.raises(FewshotBenchError, match=sentence):
        run_plan(plan_of(tmp_path, *changes, baselines=baselines))
    assert not list(tmp_path.iterdir()), "nothing was written"


def _never(resolved: ResolvedStudy, **_: object) -> StudyResult:
    raise AssertionError(f"{resolved.study} began")


@pytest.mark.slow
def test_a_study_that_breaks_off_leaves_the_others_going(tmp_path, monkeypatch):
    def run(resolved: ResolvedStudy, **_: object) -> StudyResult:
        if resolved.study.backbone == "conv4_64":
            raise StudyError("training diverged.")
        return run_resolved(resolved)

    monkeypatch.setattr("fewshot_bench.study.run.run_resolved", run)
    result = run_plan(plan_of(tmp_path, {}, {"backbone": "conv4_64"}, {"backbone": "resnet12"}))
    assert [cell.method.backbone for cell in result.cells] == ["conv4_32", "resnet12"]
    assert result.failures == [("study.toml, line 2", 6, "study.toml, line 2: training diverged.")]
    with pytest.raises(StudyError, match=r"^study\.toml, line 1: training diverged"):
        run_plan(plan_of(tmp_path, {"backbone": "conv4_64"}))


@pytest.mark.slow
def test_outputs_go_where_the_file_says(tmp_path):
    outputs = Outputs(leaderboard="all.csv", report=False, markdown=True, latex="t.tex", figures=True)
    plan = plan_of(tmp_path, {}, {"backbone": "conv4_64"}, outputs=outputs)
    result = run_plan(plan)
    _, places, why_not = write_outputs(outputs, tmp_path, result.cells, result.baselines)
    assert {kind: place.name for kind, place in places.items()} == {
        "leaderboard": "all.csv", "markdown": "table.md", "latex": "t.tex", "figures": "figures"
    }  # fmt: skip
    assert why_not == ""
    assert "conv4\\_64" in places["latex"].read_text(encoding="utf-8")
    assert "conv4\\_64" in places["markdown"].read_text(encoding="utf-8")
    assert list(places["figures"].glob("*.svg"))
    assert not (tmp_path / "report.html").exists()
    assert not (tmp_path / "leaderboard.csv").exists()


def test_the_tables_call_methods_as_the_file_does(tmp_path):
    outputs = Outputs(report=False, markdown=True, latex=True, plus_minus="none", labels={"64": "Ours & more"})
    plan = plan_of(tmp_path, {}, {"backbone": "conv4_64"}, outputs=outputs)
    result = run_plan(plan)
    _, places, _ = write_outputs(outputs, tmp_path, result.cells, result.baselines)
    assert r"| Ours \& more |" in places["markdown"].read_text(encoding="utf-8")
    assert "±" not in places["markdown"].read_text(encoding="utf-8")
    assert r"Ours \& more &" in places["latex"].read_text(encoding="utf-8")
    assert set(pd.read_csv(places["leaderboard"])["method"]) == {"conv4_32/centroid", "conv4_64/centroid"}


def test_a_label_of_a_method_without_outcomes_spoils_no_table(tmp_path):
    outputs = Outputs(report=False, markdown=True, labels={"64": "Ours", "conv4_32": "Theirs"})
    result = run_plan(plan_of(tmp_path, {}))
    _, places, _ = write_outputs(outputs, tmp_path, result.cells, result.baselines)
    assert "| Theirs |" in places["markdown"].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("labels", "sentence"),
    [
        ({"conv4_23/centroid": "Ours"}, "labels of outputs: there is no method called 'conv4_23/centroid'"),
        ({"centroid": "Ours"}, "labels of outputs: 'centroid' fits 2 methods"),
        (
            {"conv4_32": "Ours", "conv4_64": "Ours"},
            "labels of outputs: conv4_32/centroid and conv4_64/centroid would both be called 'Ours'",
        ),
    ],
)
def test_a_label_that_cannot_be_is_found_before_anything_is_computed(tmp_path, labels, sentence):
    plan = plan_of(tmp_path, {}, {"backbone": "conv4_64"}, outputs=Outputs(labels=labels))
    with pytest.raises(StudyError, match=sentence):
        run_plan(plan)
    assert OutcomeStore(tmp_path / "outcomes").cells() == []
    assert any(sentence in problem for problem in estimate(plan).missing)


def test_the_same_plan_again_computes_nothing(tmp_path):
    plan = plan_of(tmp_path, {}, {"backbone": "conv4_64"})
    first = run_plan(plan)
    store = OutcomeStore(tmp_path / "outcomes")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")}
    assert [cell.key for cell in run_plan(plan).cells] == [cell.key for cell in first.cells]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.parquet")} == before
    assert all(len(store.done(cell)[0]) == 6 for cell in first.cells)

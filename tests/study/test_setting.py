"""What a sweep chose is a file that says so, and that `run` can only use as data."""

from __future__ import annotations

import pytest
import tomli_w
import toy_sweeps

from fewshot_bench.errors import StudyError
from fewshot_bench.study import Axis, Grid, Study, read_best_configuration, run_sweep


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    folder = tmp_path_factory.mktemp("setting")
    grid = Grid((Axis("lambda", (0.25, 0.75)), Axis("learning_rate", (1e-6, 0.1))))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEWSHOT_BENCH_HOME", str(folder / "home"))
        toy_sweeps.use(toy_sweeps.toy_dataset(), patch)
        return run_sweep(toy_sweeps.planned(folder, grid, shots=(1, 2), episodes=8, runs=2))


@pytest.mark.slow
def test_the_chosen_point_has_the_highest_mean_over_the_shots(result):
    means = result.frame.groupby(["lambda", "learning_rate"], sort=False)["mean"].mean()
    assert tuple(result.best.chosen.values()) == means.idxmax()
    best = result.frame[result.frame["is_best"]]
    assert best["shot"].tolist() == [1, 2]
    assert result.best.accuracy["2-shot"]["mean"] == pytest.approx(best["mean"].iloc[1], abs=1e-4)


def test_the_file_holds_what_the_sweep_spent_and_on_what(result):
    setting = read_best_configuration(result.best_path)
    assert setting == result.best
    assert setting.grid == {"lambda": [0.25, 0.75], "learning_rate": [1e-6, 0.1]}
    spent = {"shots": [1, 2], "episodes": 8, "runs": 2, "points": 4, "points_run": 4}
    assert {name: setting.budget[name] for name in spent} == spent
    assert setting.budget["seconds"] > 0
    assert setting.protocol["dataset_fingerprint"] == toy_sweeps.toy_dataset().fingerprint
    assert {"torch", "fewshot-bench"} <= set(setting.versions)
    assert "validation" in setting.rule


def test_the_chosen_values_replace_defaults_and_typed_ones_replace_the_rest(result):
    setting = result.best
    fields = Study().model_dump() | {"hyper_parameters": {"steps": 9}}
    applied = setting.applied_to(fields, {"hyper_parameters": {"steps": 9}, "losses": ("ce",)}, "best.toml")
    study = Study.model_validate(applied | {"losses": ("ce",)})
    assert study.lambda_ == setting.chosen["lambda"]
    assert study.hyper_parameters == {"steps": 9, "learning_rate": setting.chosen["learning_rate"]}
    assert (study.adaptations, study.backbone, study.dataset) == (("finetune-head",), "conv4_32", "toy")
    assert (study.split, study.episodes) == ("novel", 3000)


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ({"lambda_": 0.5}, r"--lambda 0\.5 contradicts best\.toml, which chose 0\."),
        ({"hyper_parameters": {"learning_rate": 3}}, r"--set learning_rate=3 contradicts best\.toml"),
    ],
)
def test_a_contradiction_is_refused_and_a_repetition_is_not(result, typed, sentence):
    with pytest.raises(StudyError, match=sentence):
        result.best.applied_to({}, typed, "best.toml")
    chosen = result.best.chosen
    same = {"lambda_": chosen["lambda"], "hyper_parameters": {"learning_rate": chosen["learning_rate"]}}
    assert result.best.applied_to({}, same, "best.toml")["lambda_"] == chosen["lambda"]


FOREIGN = {
    "empty": "",
    "no TOML": "a sweep = [",
    "another TOML": "[tool.ruff]\nline-length = 3\n",
    "binary": "\x00\x01",
    "deeply nested": "chosen = " + "[" * 20_000,
}


@pytest.mark.parametrize("case", FOREIGN)
def test_a_foreign_file_is_one_clear_line(case, tmp_path):
    path = tmp_path / "best.toml"
    path.write_text(FOREIGN[case])
    with pytest.raises(StudyError, match=r"best\.toml is not the best configuration of a sweep"):
        read_best_configuration(path)


CHANGES = {
    "another format": {"format": "fewshot-bench setting 2"},
    "nothing chosen": {"chosen": {}},
    "a list as a value": {"chosen": {"lambda": [0.5]}},
    "an unknown table": {"run": {"command": "ls"}},
    "results elsewhere": {"method": {"results": "/"}},
    "the novel split": {"method": {"split": "novel"}},
    "hyper-parameters that are none": {"method": {"hyper_parameters": 3}},
}


@pytest.mark.parametrize("case", CHANGES)
def test_a_changed_file_is_refused(case, result, tmp_path):
    path = tmp_path / "best.toml"
    path.write_text(tomli_w.dumps(result.best.model_dump() | CHANGES[case]))
    with pytest.raises(StudyError, match=r"best\.toml is not the best configuration of a sweep"):
        read_best_configuration(path)


def test_an_absent_file_and_an_enormous_one_are_said_to_be_so(tmp_path):
    with pytest.raises(StudyError, match="there is no configuration"):
        read_best_configuration(tmp_path / "best.toml")
    (tmp_path / "best.toml").write_bytes(b"#" * 1_000_001)
    with pytest.raises(StudyError, match="at most 1,000,000 bytes"):
        read_best_configuration(tmp_path / "best.toml")

"""A stored result comes out again, and what differs is named; nothing that a stranger's record says is done for it."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace

import pytest
from audited_results import another_prediction, better_predictions, rewritten, small_result, stored, with_part

from fewshot_bench._io.locations import HOME_VARIABLE, cache_folder
from fewshot_bench.audit import (
    OtherOutcome,
    ReproductionOptions,
    reproduce_cell,
    resolve_cells,
    without_caches,
)
from fewshot_bench.errors import FewshotBenchError, ReproductionError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.study.workers import MethodWorker

pytestmark = pytest.mark.slow


@pytest.fixture
def cell(tmp_path):
    return small_result(tmp_path / "results")


@pytest.fixture(scope="module")
def trained_once(tmp_path_factory):
    """A result with a base stage, and the home that has its network."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(HOME_VARIABLE, str(folder / "home"))
        small_result(folder / "results", base_losses=("ce",), base_epochs=1, episodes=3, runs=1)
    return folder


@pytest.fixture
def trained(trained_once, home, tmp_path):
    shutil.copytree(trained_once / "home", home)
    shutil.copytree(trained_once / "results", tmp_path / "results")
    (folder,) = (tmp_path / "results" / "outcomes").iterdir()
    return folder


def again(folder, **options):
    return reproduce_cell(folder, ReproductionOptions(**{"device": "cpu", **options}))


def content(folder):
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def test_every_outcome_comes_out_again_and_the_result_is_left_as_it_was(cell):
    before = content(cell.parent.parent)
    result = again(cell)
    assert (result.is_equal, result.episodes, result.stored_episodes, result.queries) == (True, 24, 24, 24 * 75)
    assert result.stored_mean == result.new_mean
    assert (result.others, result.environment_diff, result.weights, result.explanation) == ((), (), "", "")
    assert content(cell.parent.parent) == before


@pytest.mark.parametrize(
    "study",
    [
        {"adaptations": ("finetune-head",), "hyper_parameters": {"steps": 3}},
        {"sampler": "varied"},
        {"sampler": "disjoint", "runs": 1, "episodes": 11},
    ],
    ids=str,
)
def test_so_do_those_of_other_methods_and_samplers(tmp_path, study):
    result = again(small_result(tmp_path, **study))
    assert result.is_equal
    assert result.episodes >= 11


def test_an_episode_that_says_otherwise_is_named(cell):
    truth = again(cell)
    with_part(cell, 1, another_prediction)
    result = again(cell)
    (other,) = result.others
    assert (other.run, other.episode, other.predictions) == (0, 5, 1)
    assert (result.predictions, result.is_equal, result.new_mean) == (1, False, truth.new_mean)
    assert result.explanation == "by the same versions on the same kind of machine, which repeats every bit"


def test_better_numbers_than_the_method_has_show_in_the_mean(cell):
    with_part(cell, 0, better_predictions)
    result = again(cell)
    (other,) = result.others
    assert (other.stored_correct, result.other_accuracies) == (75, 1)
    assert other.new_correct < 75
    assert result.stored_mean - result.new_mean == pytest.approx(100 * (75 - other.new_correct) / 75 / 24)


def test_counts_that_are_not_those_of_the_predictions_differ(cell):
    def counted(frame):
        frame.loc[0, "correct"] += 1
        frame["accuracy"] = frame["correct"] / 75

    with_part(cell, 0, counted)
    result = again(cell)
    (other,) = result.others
    assert other == OtherOutcome(0, 0, other.new_correct + 1, other.new_correct, 0)
    assert (result.predictions, result.other_accuracies, result.is_equal) == (0, 1, False)
    assert "the stored counts are not those" in result.explanation


def test_some_of_the_episodes_are_chosen_by_a_seed(cell, tmp_path):
    chosen = []
    for number, seed in enumerate((0, 0, 1)):
        result = again(cell, episodes=7, seed=seed, into=tmp_path / f"into-{number}")
        assert (result.episodes, result.stored_episodes, result.is_equal) == (7, 24, True)
        frame = OutcomeStore(tmp_path / f"into-{number}" / "outcomes").read(cell.name)
        chosen.append(list(zip(frame["run"], frame["episode"], strict=True)))
    assert chosen[0] == chosen[1] != chosen[2]


def test_new_outcomes_are_a_result_that_goes_on_after_an_interruption(cell, tmp_path, monkeypatch):
    into, compute, computed = tmp_path / "into", MethodWorker.__call__, []

    def interrupted(worker, chunk):
        if computed:
            raise KeyboardInterrupt
        computed.append(chunk)
        return compute(worker, chunk)

    monkeypatch.setattr(MethodWorker, "__call__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        again(cell, into=into)
    monkeypatch.setattr(
        MethodWorker, "__call__", lambda worker, chunk: (computed.append(chunk), compute(worker, chunk))[1]
    )
    assert again(cell, into=into).is_equal
    assert sum(len(chunk) for chunk in computed) == 24
    new, old = (OutcomeStore(folder / "outcomes") for folder in (into, cell.parent.parent))
    assert new.cells()[0].key == cell.name
    assert new.read(cell.name).drop(columns="seconds").equals(old.read(cell.name).drop(columns="seconds"))
    computed.clear()
    assert again(cell, into=into).is_equal
    assert computed == []


def test_new_outcomes_never_go_where_the_stored_ones_are(cell):
    before = content(cell.parent.parent)
    with pytest.raises(ReproductionError, match="holds the result itself"):
        again(cell, into=cell.parent.parent)
    assert content(cell.parent.parent) == before


def test_a_method_that_fails_is_said_to(cell, monkeypatch):
    def fails(worker, chunk):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(MethodWorker, "__call__", fails)
    with pytest.raises(
        ReproductionError, match="failed on the episodes 0 to 11 of run 0: RuntimeError: no such kernel"
    ):
        again(cell)


def test_other_versions_and_hardware_are_named_and_explain_a_tie(cell):
    with_part(cell, 0, another_prediction)
    elsewhere = rewritten(
        cell,
        lambda told: (
            told["versions"].update(torch="0.1"),
            told["provenance"]["hardware"].update(cpu="another", tf32="convolutions"),
        ),
    )
    result = again(elsewhere)
    assert [(one.name, one.recorded) for one in result.environment_diff] == [
        ("torch", "0.1"),
        ("cpu", "another"),
        ("tf32", "convolutions"),
    ]
    assert result.explanation == "ties, by other versions, on another kind of machine or in other batches"
    assert not result.is_equal


def test_where_a_trial_chooses_the_batches_a_tie_is_explained_on_the_same_machine_too(cell, monkeypatch):
    with_part(cell, 0, another_prediction)
    assert again(cell).explanation.startswith("by the same versions on the same kind of machine")
    monkeypatch.setattr("fewshot_bench.backbones.embedding_tuner._FEWEST", 0)  # as with a split of thousands of images
    assert again(cell).explanation.startswith("ties, ")


def test_weights_that_the_base_stage_gives_otherwise_are_told_and_the_outcomes_compared(trained, tmp_path):
    weights = stored(trained).method.weights
    other = rewritten(trained, lambda told: told["method"].update(weights="ab" * 32))
    with_part(other, 0, better_predictions)
    result = again(other, into=tmp_path / "into")
    assert (result.weights, len(result.others)) == (weights, 1)
    (made,) = OutcomeStore(tmp_path / "into" / "outcomes").cells()
    assert made.method.weights == weights


def test_a_base_stage_is_trained_anew_only_where_that_is_asked_for(trained, monkeypatch):
    before = content(cache_folder())
    with without_caches():
        assert again(trained).is_equal
        assert list((cache_folder() / "checkpoints").glob("*.safetensors"))
    assert content(cache_folder()) == before

    def refuse(*_, **__):
        raise AssertionError("it was trained")

    monkeypatch.setattr("fewshot_bench.study.base_stage.train_on_base", refuse)
    assert again(trained).is_equal
    with without_caches(), pytest.raises(AssertionError, match="it was trained"):
        again(trained)


def refused(folder, **options):
    with pytest.raises(FewshotBenchError) as caught:
        again(folder, **options)
    return str(caught.value)


def test_other_images_are_found_before_anything_is_trained(trained, monkeypatch):
    monkeypatch.setattr("fewshot_bench.audit.reproduce.rebuild", None)  # nobody gets there
    other = rewritten(trained, lambda told: told["protocol"].update(dataset_fingerprint="cd" * 32))
    assert "the images of glyphs here have another fingerprint" in refused(other)
    absent = rewritten(other, lambda told: told["protocol"].update(dataset="fc100"))
    told = "; say where they lie with --dataset PATH. What to obtain: fewshot-bench data check fc100."
    assert f"the images of fc100 are not here{told}" in refused(absent)
    assert told in refused(absent, dataset=trained / "nowhere")


def test_a_record_that_lacks_the_study_or_contradicts_it_is_refused(trained, monkeypatch):
    monkeypatch.setattr("fewshot_bench.study.base_stage.train_on_base", None)
    forged = rewritten(trained, lambda told: told["provenance"]["study"].update(base_epochs=100_000))
    assert "hyper_parameters.base.epochs is 100000 here and 1 in the outcomes" in refused(forged)
    monkeypatch.setattr("timm.create_model", None)
    hub = rewritten(
        trained,
        lambda told: (
            told["method"].update(backbone="timm:resnet18"),
            told["provenance"]["study"].update(backbone="timm:resnet18", base_epochs=1),
        ),
    )
    assert "asked only with --download" in refused(hub)
    bare = rewritten(hub, lambda told: told.pop("provenance"))
    assert "the outcomes do not record the study that made them" in refused(bare)


@pytest.mark.parametrize("fields", [{"backbone": "trapped:thing"}, {"adaptations": ["trapped:thing"]}], ids=str)
def test_code_that_a_record_names_is_not_imported(cell, tmp_path, monkeypatch, fields):
    mark = tmp_path / "mark"
    (tmp_path / "trapped.py").write_text(f"open({str(mark)!r}, 'w').close()\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    forged = rewritten(cell, lambda told: told["provenance"]["study"].update(fields))
    assert "imported only with --trust-code" in refused(forged)
    assert not mark.exists()
    assert "trapped" not in sys.modules


def test_no_path_that_a_record_names_is_read(cell, tmp_path):
    named = rewritten(cell, lambda told: told["provenance"]["study"].update(weights="/etc/passwd"))
    assert "passwd, is not part of the outcomes; give it with --weights" in refused(named)
    elsewhere = rewritten(named, lambda told: told["protocol"].update(dataset=str(tmp_path)))
    assert "are not here" in refused(elsewhere)


def test_a_description_of_another_cell_is_refused(cell):
    moved = cell.rename(cell.parent / "0123456789abcdef")
    assert "fewshot-bench audit" in refused(moved)


def test_cells_are_meant_by_folder_key_or_method(tmp_path):
    results = tmp_path / "results"
    folders = {
        (name, shot): small_result(results, adaptations=(name,), shots=(shot,), episodes=2, runs=1)
        for name, shot in (("centroid", 1), ("centroid", 5), ("logistic", 1))
    }
    everything = sorted(folders.values())
    assert resolve_cells(str(results)) == resolve_cells(str(results / "outcomes")) == everything
    one = folders["logistic", 1]
    assert resolve_cells(str(one)) == resolve_cells(one.name, results) == resolve_cells(one.name[:8], results) == [one]
    of_method = sorted([folders["centroid", 1], folders["centroid", 5]])
    assert sorted(resolve_cells("centroid", results)) == of_method
    assert resolve_cells("centroid", results, [5]) == [folders["centroid", 5]]
    assert resolve_cells(stored(one).method.label, results) == [one]
    for wanted, shots, told in (
        ("centriod", (), "Did you mean"),
        ("conv4", (), "fits 2 methods"),
        ("logistic", (5,), "outcomes of 1-shot tasks, not of 5-shot ones"),
    ):
        with pytest.raises(FewshotBenchError, match=told):
            resolve_cells(wanted, results, shots)
    with pytest.raises(ReproductionError, match="there are no outcomes in"):
        resolve_cells("centroid", tmp_path / "nothing")


def test_a_record_of_what_came_is_plain_data(cell):
    with_part(cell, 0, another_prediction)
    told = again(cell).as_dict()
    assert (told["is_equal"], told["predictions"], told["key"]) == (False, 1, cell.name)
    assert told["others"] == ({"run": 0, "episode": 0, **_of(told)},)
    assert replace(again(cell), others=()).is_equal


def _of(told):
    (other,) = told["others"]
    return {name: other[name] for name in ("stored_correct", "new_correct", "predictions")}

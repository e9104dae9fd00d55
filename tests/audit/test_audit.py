"""An honest result passes its audit; every falsification is found by the check that is there for it."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from audited_results import (
    Tie,
    another_prediction,
    better_predictions,
    detail,
    elsewhere,
    failures,
    forge,
    nearest_ties,
    overlapping_part,
    rewritten,
    small_result,
    stored,
    verdicts,
    with_part,
)

from fewshot_bench.audit import AuditOptions, audit_cell, cell_folders
from fewshot_bench.errors import AuditError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.store import parts_in

pytestmark = pytest.mark.slow

EVERY_CHECK = [
    "description",
    "stored parts",
    "counts",
    "class sizes",
    "tasks",
    "published tasks",
    "images",
    "same predictions",
    "query order",
    "query labels",
    "query batching",
    "image numbers",
    "pretraining",
]


@pytest.fixture
def cell(tmp_path):
    return small_result(tmp_path)


def test_an_honest_result_passes_every_check(cell):
    found = verdicts(cell)
    assert list(found) == EVERY_CHECK
    assert set(found.values()) == {"pass"}


@pytest.mark.parametrize("adaptation", ["logistic", "finetune-head"])
def test_methods_on_frozen_embeddings_pass(tmp_path, adaptation):
    settings = {"steps": 5} if adaptation == "finetune-head" else {}
    folder = small_result(tmp_path, adaptations=("centroid", adaptation)[1:], hyper_parameters=settings)
    assert set(verdicts(folder, episodes=24).values()) == {"pass"}


def test_fine_tuning_passes_and_draws_views_by_the_numbers_of_images(tmp_path):
    settings = {"epochs": 2, "learning_rate": 0.001}
    folder = small_result(tmp_path, adaptations=("finetune",), episodes=3, hyper_parameters=settings, query=3)
    found = verdicts(folder, episodes=2)
    assert found.pop("image numbers") == "not checked"
    assert found.pop("published tasks") == "not checked"
    assert set(found.values()) == {"pass"}


def test_trials_that_end_otherwise_may_turn_a_tie_of_a_fine_tuned_network(tmp_path):
    settings = {"epochs": 1, "learning_rate": 0.001}
    folder = small_result(tmp_path, adaptations=("finetune",), episodes=2, hyper_parameters=settings)
    first = OutcomeStore(folder.parent).read(stored(folder)).loc[0, "predictions"]
    predictions = np.frombuffer(first, dtype=np.uint8)
    query = int(np.flatnonzero((predictions != np.repeat(np.arange(5), 15)) & (predictions < 3))[0])
    other = 4 if query // 15 != 4 else 3  # as wrong as before, so the counts stay
    forge(folder, [Tie(0, 0, query, other, gain=0, behind=0.0)])
    assert failures(folder, episodes=4) == []
    assert "1 of 300 predictions" in detail(folder, "same predictions", episodes=4)
    with_part(folder, 0, better_predictions)
    assert "same predictions" in failures(folder, episodes=4)


@pytest.mark.parametrize(
    "sampler", [{"sampler": "disjoint"}, {"sampler": "dirichlet"}, {"sampler": "varied", "least_way": 3}], ids=str
)
def test_results_of_other_samplers_pass(tmp_path, sampler):
    counts = {"episodes": 9, "runs": 1}
    assert failures(small_result(tmp_path, **sampler, **counts)) == []


def test_a_prediction_that_does_not_give_the_stored_count_is_found(cell):
    with_part(cell, 1, another_prediction)
    assert "counts" in failures(cell)
    assert detail(cell, "counts").startswith("1 episodes, first run 0, episode 5: ")


def test_better_predictions_with_fitting_counts_are_found_by_running_them_again(cell):
    with_part(cell, 0, better_predictions)
    assert failures(cell, episodes=24) == ["same predictions"]
    assert "predictions of 24 episodes differ from those stored" in detail(cell, "same predictions", episodes=24)


def test_a_few_ties_are_noise_only_where_something_else_was_computing(cell):
    forge(cell, nearest_ties(cell)[:1])
    assert failures(cell) == ["same predictions"]
    other = elsewhere(cell)
    assert failures(other) == []
    assert "1 of 1,800 predictions" in detail(other, "same predictions")
    with_part(other, 0, better_predictions)
    assert failures(other) == ["same predictions"]


def test_a_damaged_part_is_found(cell):
    path = parts_in(cell)[0].location
    path.write_bytes(path.read_bytes()[:-100])
    found = verdicts(cell)
    assert found["stored parts"] == "fail"
    assert found["tasks"] == found["same predictions"] == "not checked"


def test_an_episode_that_is_missing_between_others_is_found(cell):
    parts_in(cell)[1].location.unlink()
    assert "stored parts" in failures(cell)
    assert detail(cell, "stored parts") == "run 0 has 7 episodes, but not episode 5"


def test_a_run_that_is_missing_is_found(cell):
    for part in parts_in(cell):
        if part.episode_range[0] == 0:
            part.location.unlink()
    assert "one is missing" in detail(cell, "stored parts")


def test_an_unfinished_last_run_is_no_failure(cell):
    parts_in(cell)[-1].location.unlink()
    assert failures(cell) == []
    assert "2 runs of 10 to 12 episodes" in detail(cell, "stored parts")


def test_copies_are_counted_and_contradictions_are_found(cell):
    overlapping_part(cell, lambda frame: None)
    assert failures(cell) == []
    assert "2 are stored twice alike" in detail(cell, "stored parts")
    for part in parts_in(cell):
        if part.episode_range == (0, 0, 2):
            part.location.unlink()
    overlapping_part(cell, lambda frame: another_prediction(frame.reset_index(drop=True)) or _change_first(frame))
    assert "stored parts" in failures(cell)
    assert "run 0, episode 0 is stored twice and differently" in detail(cell, "stored parts")


def _change_first(frame):
    said = bytearray(frame["predictions"].iloc[0])
    said[0] = (said[0] + 1) % 5
    frame.at[frame.index[0], "predictions"] = bytes(said)


def test_no_outcomes_at_all_are_a_failure(cell):
    for part in parts_in(cell):
        part.location.unlink()
    assert "there are no outcomes" in detail(cell, "stored parts")


def test_wrong_class_sizes_are_found_by_the_images_and_by_the_published_digest(cell):
    forged = rewritten(cell, lambda content: content.update(class_sizes=[61, 59, *content["class_sizes"][2:]]))
    found = verdicts(forged)
    assert found["class sizes"] == found["published tasks"] == "fail"
    assert "20 classes of 59 to 61 images" in detail(forged, "class sizes")
    too_few = rewritten(forged, lambda content: content.update(class_sizes=[60, 60]))
    assert "tasks" in failures(too_few)


def test_class_sizes_that_nobody_recorded_come_from_the_images(cell):
    older = rewritten(cell, lambda content: content.pop("class_sizes"))
    found = verdicts(older)
    assert found.pop("class sizes") == "not checked"
    assert set(found.values()) == {"pass"}
    assert "of the images here" in detail(older, "tasks")


def test_another_fingerprint_of_the_images_is_found(cell):
    forged = rewritten(cell, lambda content: content["protocol"].update(dataset_fingerprint="ab" * 32))
    assert failures(forged) == ["images"]
    assert detail(forged, "images").endswith("not abababababab")
    assert verdicts(forged)["same predictions"] == "not checked"


def test_a_folder_with_another_name_is_found(cell):
    moved = cell.rename(cell.parent / ("0" * 16))
    assert failures(moved) == ["description"]


def test_a_hyper_parameter_that_the_study_did_not_have_is_found_and_named(tmp_path):
    cell = small_result(tmp_path, adaptations=("logistic",), hyper_parameters={"C": 10.0})
    forged = rewritten(cell, lambda content: content["method"]["hyper_parameters"]["adaptation"].update(C=1.0))
    assert failures(forged) == ["same predictions"]
    assert "hyper_parameters.adaptation.C is 10.0 here and 1.0 in the outcomes" in detail(forged, "same predictions")


def test_other_weights_are_named_and_no_failure_since_training_rounds_differently_elsewhere(cell):
    forged = rewritten(cell, lambda content: content["method"].update(weights="00" * 32))
    assert failures(forged) == []
    assert "weights is" in detail(forged, "same predictions")
    assert verdicts(forged)["same predictions"] == "not checked"


def test_a_method_of_another_commit_is_not_contradicted(tmp_path):
    cell = small_result(tmp_path, adaptations=("logistic",))

    def change(content):
        content["method"]["hyper_parameters"]["adaptation"]["C"] = 2.0
        content["provenance"]["git_commit"] = "f" * 40

    assert failures(rewritten(cell, change)) == []


def test_no_images_leave_what_can_be_checked_without(tmp_path, cell):
    other = rewritten(cell, lambda content: content["protocol"].update(dataset="elsewhere"))
    found = verdicts(other)
    assert found["stored parts"] == found["counts"] == found["tasks"] == "pass"
    assert found["images"] == found["same predictions"] == found["class sizes"] == "not checked"
    told = "the images of elsewhere are not here; say where they lie with --dataset PATH"
    assert detail(other, "images") == told


def test_tasks_of_a_published_protocol_are_checked_without_images(tmp_path):
    cell = small_result(tmp_path)
    content = stored(cell)
    protocol = replace(content.protocol, dataset="cifar-fs")
    store = OutcomeStore(tmp_path / "copied")
    copy = replace(content, protocol=protocol, class_sizes=())
    frame = OutcomeStore(cell.parent).read(content)
    store.append_frame(copy, frame)
    found = verdicts(store.folder / copy.key)
    assert found["tasks"] == found["published tasks"] == found["counts"] == "pass"
    assert "of a published lock file" in detail(store.folder / copy.key, "tasks")


@pytest.mark.parametrize(
    ("pretraining", "verdict", "told"),
    [
        ("ImageNet-1k", "fail", "novel classes are in ImageNet-1k"),
        ("unknown", "not checked", "pretraining unknown"),
        (None, "not checked", "pretraining not recorded"),
        (["ImageNet-1k"], "not checked", "pretraining not recorded"),
        ("", "pass", "trained from an initialisation"),
    ],
)
def test_weights_that_have_seen_the_novel_classes_are_found(cell, pretraining, verdict, told):
    def change(content):
        content["protocol"]["dataset"] = "mini-imagenet"
        content["provenance"]["pretraining"] = pretraining

    forged = rewritten(cell, change)
    assert verdicts(forged)["pretraining"] == verdict
    assert detail(forged, "pretraining") == told


def test_imagenet_weights_on_cifar_pass_and_say_why(cell):
    def change(content):
        content["protocol"]["dataset"] = "cifar-fs"
        content["provenance"]["pretraining"] = "ImageNet-1k"

    forged = rewritten(cell, change)
    assert verdicts(forged)["pretraining"] == "pass"
    assert "other images" in detail(forged, "pretraining")


def test_nothing_is_run_again_where_nobody_wants_it(cell):
    found = verdicts(cell, episodes=0)
    assert [check for check, verdict in found.items() if verdict == "not checked"] == EVERY_CHECK[7:12]


def test_which_episodes_are_run_again_is_decided_by_the_auditor(cell):
    with_part(cell, 0, better_predictions)
    caught = {seed: "same predictions" in failures(cell, episodes=6, seed=seed) for seed in range(8)}
    assert set(caught.values()) == {True, False}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c["protocol"].update(way="5"), "protocol.way should be a whole number, not '5'"),
        (lambda c: c["protocol"].update(way=True), "protocol.way should be a whole number"),
        (lambda c: c["protocol"].update(way=10**9), "protocol.way should be less than or equal to 65535"),
        (lambda c: c["protocol"].update(shot=0), "protocol.shot should be greater than or equal to 1"),
        (lambda c: c["method"].update(name=["x"]), "method.name should be text"),
        (lambda c: c["method"].update(is_transductive="no"), "is_transductive should be true or false"),
        (lambda c: c["method"].update(hyper_parameters=[1]), "hyper_parameters should be a mapping"),
        (lambda c: c["method"].update(hyper_parameters={"a": float("nan")}), "should be finite numbers"),
        (lambda c: c.pop("method"), "cell.json cannot be read: method is missing"),
        (lambda c: c["method"].update(evil=1), "cell.json cannot be read"),
    ],
)
def test_a_description_of_other_kinds_of_values_is_a_failure_and_no_crash(cell, change, told):
    content = json.loads((cell / "cell.json").read_text())
    change(content)
    (cell / "cell.json").write_text(json.dumps(content))
    assert told in detail(cell, "description")
    assert failures(cell) == ["description"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda c: c.update(class_sizes=[0, 60]), "class_sizes.0 should be greater than or equal to 1, not 0"),
        (lambda c: c.update(class_sizes="many"), "class_sizes should be a list"),
        (lambda c: c.update(provenance="none"), "provenance should be a mapping, not 'none'"),
        (lambda c: c["provenance"].update(stopping=5), "provenance.stopping should be a list, not 5"),
        (lambda c: c["provenance"].update(commands=5), "provenance.commands should be a list, not 5"),
    ],
)
def test_what_counts_as_not_recorded_is_told_and_the_rest_is_checked(cell, change, told):
    content = json.loads((cell / "cell.json").read_text())
    change(content)
    (cell / "cell.json").write_text(json.dumps(content))
    assert detail(cell, "description").startswith(f"cell.json, taken as not recorded: {told}")
    assert failures(cell) == ["description"]
    assert verdicts(cell)["counts"] == verdicts(cell)["tasks"] == "pass"


@pytest.mark.parametrize("text", ["", "[]", "3", "{", "null", '{"method": 1}', "[" * 100_000, "\xff"])
def test_text_that_is_no_description_is_a_failure_and_no_crash(cell, text):
    (cell / "cell.json").write_bytes(text.encode("latin-1"))
    assert failures(cell) == ["description"]


def test_cells_are_found_by_folder_or_key(tmp_path, cell, monkeypatch):
    assert cell_folders(tmp_path) == cell_folders(tmp_path / "outcomes") == cell_folders(cell) == [cell]
    assert cell_folders(type(cell)(cell.name[:6]), tmp_path) == [cell]
    monkeypatch.chdir(cell)
    (here,) = cell_folders(type(cell)("."))
    assert audit_cell(here, AuditOptions(episodes=0)).key == cell.name
    with pytest.raises(AuditError, match="no cell begins like this"):
        cell_folders(type(cell)("ffff"), tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(AuditError, match="there are no outcomes"):
        cell_folders(tmp_path / "empty")


def test_a_cell_without_a_record_of_its_study_is_checked_as_far_as_it_goes(cell):
    older = rewritten(cell, lambda content: content.pop("provenance"))
    found = audit_cell(older).findings
    assert [finding.check for finding in found if finding.verdict == "not checked"] == EVERY_CHECK[7:12]
    assert "the outcomes do not record the study" in detail(older, "same predictions")

"""A stranger's record is compared with its method first: a contradiction has nothing trained and nothing fetched."""

from __future__ import annotations

import pytest
from audited_results import detail, failures, rewritten, small_result, stored, verdicts

import fewshot_bench.audit.stored_checks
from fewshot_bench._io.locations import cache_folder

pytestmark = pytest.mark.slow

TRAINED = {"base_losses": ("ce",), "base_epochs": 1, "episodes": 3, "runs": 1}
CHECK = "same predictions"


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """A result with a base stage, after which nothing more can be trained or fetched."""
    cell = small_result(tmp_path, **TRAINED)

    def refuse(*_, **__):
        raise AssertionError("it was done")

    monkeypatch.setattr("fewshot_bench.study.base_stage.train_on_base", refuse)
    monkeypatch.setattr("timm.create_model", refuse)
    return cell


def with_study(cell, *, other_code=False, of_method=None, **fields):
    def change(content):
        content["provenance"]["study"].update(fields)
        if other_code:
            content["provenance"]["git_commit"] = "f" * 40
        if of_method:
            content["method"]["backbone"] = of_method

    return rewritten(cell, change)


@pytest.mark.parametrize("other_code", [False, True])
@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"base_epochs": 100_000}, "hyper_parameters.base.epochs is 100000 here and 1 in the outcomes"),
        ({"base_batch": 4096}, "hyper_parameters.base.batch_size is 4096 here and "),
        ({"backbone": "timm:resnet18"}, "backbone is timm:resnet18 here and conv4_32 in the outcomes"),
        ({"backbone": "resnet18"}, "backbone is timm:resnet18 here and conv4_32 in the outcomes"),
    ],
    ids=str,
)
def test_a_study_that_contradicts_its_method_fails_before_anything_is_done(trained, fields, told, other_code):
    forged = with_study(trained, other_code=other_code, **fields)
    assert told in detail(forged, CHECK)
    assert failures(forged) == [CHECK]
    assert failures(forged, downloads=True) == [CHECK]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"training_seed": 7}, "hyper_parameters.base.seed is 7 here and 0 in the outcomes"),
        ({"image_size": 32}, "hyper_parameters.preprocessing."),
        ({"backbone": "conv4_64"}, "backbone is conv4_64 here and conv4_32 in the outcomes"),
        ({"base_losses": ["ce+schane"], "checkpoints": None}, "hyper_parameters.base.loss is ce+schane here"),
    ],
    ids=str,
)
def test_so_does_one_of_the_same_code_that_gives_another_recipe(trained, fields, told):
    if "base_losses" in fields:  # the loss is taken from the method, unless it names none
        forged = rewritten(
            trained,
            lambda content: (
                content["provenance"]["study"].update(fields),
                content["method"]["hyper_parameters"]["base"].update(loss=1),
            ),
        )
    else:
        forged = with_study(trained, **fields)
    assert told in detail(forged, CHECK)
    assert failures(forged) == [CHECK]
    elsewhere = with_study(forged, other_code=True)
    assert verdicts(elsewhere)[CHECK] == "not checked"
    assert told in detail(elsewhere, CHECK)


def test_another_adaptation_is_found_before_weights_are_fetched(trained):
    names = {"backbone": "timm:resnet18", "of_method": "timm:resnet18"}
    forged = with_study(trained, adaptations=["logistic"], **names)
    assert "adaptation is logistic here and centroid in the outcomes" in detail(forged, CHECK)
    assert failures(forged, downloads=True) == [CHECK]


@pytest.mark.parametrize("name", ["timm:resnet18", "resnet18"])
def test_a_model_hub_is_asked_only_where_the_auditor_wants_it(trained, monkeypatch, name):
    cell = with_study(trained, backbone=name, of_method="timm:resnet18")
    assert "timm:resnet18 come from a model hub, which is asked only with --download" in detail(cell, CHECK)
    assert verdicts(cell)[CHECK] == "not checked"
    asked = []

    def no_hub(model, **_):
        asked.append(model)
        raise OSError("no network")

    monkeypatch.setattr("fewshot_bench.backbones.timm_backbones.why_not_fetchable", lambda model: "")
    monkeypatch.setattr("timm.create_model", no_hub)
    assert "could not be fetched (no network)" in detail(cell, CHECK, downloads=True)
    assert asked == ["resnet18"]


def test_a_base_stage_that_agrees_is_trained_where_its_checkpoint_is_not_here(tmp_path):
    cell = small_result(tmp_path, **TRAINED)
    (checkpoint,) = (cache_folder() / "checkpoints").glob("*.safetensors")
    checkpoint.unlink()
    assert verdicts(cell)[CHECK] == "pass"
    assert checkpoint.is_file()


def test_the_tasks_of_a_published_protocol_are_drawn_once_for_all_of_its_cells(tmp_path, monkeypatch):
    cells = [small_result(tmp_path, adaptations=(name,)) for name in ("centroid", "logistic")]
    assert stored(cells[0]).protocol == stored(cells[1]).protocol
    draw, drawn = fewshot_bench.audit.stored_checks.episode_digests, []

    def counted(*arguments):
        drawn.append(arguments)
        return draw(*arguments)

    monkeypatch.setattr(fewshot_bench.audit.stored_checks, "episode_digests", counted)
    for cell in cells:
        assert verdicts(cell, episodes=0)["published tasks"] == "pass"
    assert len(drawn) <= 1  # none, where another test has drawn them

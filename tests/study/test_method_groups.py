"""Groups of adaptations: who is in them, who is left out and why, and that the record names the members."""

from __future__ import annotations

from dataclasses import replace

import pytest
import toy_sweeps

from fewshot_bench import run_study
from fewshot_bench.adaptation import ADAPTATIONS, EmbeddingAdaptation
from fewshot_bench.errors import StudyError
from fewshot_bench.study import Study
from fewshot_bench.study.methods import expand_groups, members_of, planned_adaptations
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.run import run_plan

DATASET = toy_sweeps.toy_dataset()
WITHOUT_BASE = replace(DATASET, splits={"novel": DATASET.splits["novel"]})


def names(*adaptations, dataset=None, **fields):
    study, left_out = expand_groups(Study(adaptations=adaptations, **fields), dataset)
    return list(study.adaptations), list(left_out)


def test_a_group_is_all_heads_on_frozen_embeddings_of_its_kind():
    heads = {
        entry.name: entry.factory().is_transductive
        for entry in ADAPTATIONS
        if isinstance(entry.factory, type)
        and issubclass(entry.factory, EmbeddingAdaptation)
        and entry.factory.__module__.startswith("fewshot_bench.")
        and not getattr(entry, "preset", None)
    }
    assert {"centroid", "finetune-head", "logistic"} <= heads.keys()
    assert set(members_of("all")) == heads.keys()
    assert set(members_of("all-inductive")) == {name for name, is_transductive in heads.items() if not is_transductive}
    assert set(members_of("all-transductive")) == {name for name, is_transductive in heads.items() if is_transductive}


def test_the_first_method_of_a_group_and_so_its_baseline_is_the_nearest_centroid():
    for group in ("all", "all-inductive"):
        first, *others = members_of(group)
        assert first == "centroid"
        assert others == sorted(others)


def test_a_network_that_needs_a_base_split_is_refused_with_a_way_out_where_there_is_none(tmp_path, monkeypatch):
    toy_sweeps.use(WITHOUT_BASE, monkeypatch)
    study = toy_sweeps.study(
        tmp_path, adaptations=("centroid",), base_losses=("ce",), losses=("ce",), hyper_parameters={}
    )
    with pytest.raises(StudyError, match=r"trains on a base split, which toy does not have\. Use a pretrained network"):
        run_plan(StudyPlan.of_options([study.model_copy(update={"backbone": "conv4_32"})]))


def test_what_is_named_beside_a_group_is_there_once():
    found, left_out = names("logistic", "all-inductive", "finetune")
    assert found[0] == "logistic"
    assert found[-1] == "finetune"
    assert sorted(found) == sorted({*members_of("all-inductive"), "finetune"})
    assert left_out == []


def test_no_group_changes_nothing():
    study = Study(adaptations=("centroid", "finetune"))
    assert expand_groups(study) == (study, ())


def test_heads_that_need_the_base_split_are_left_out_where_there_is_none():
    everything = {"hyper_parameters": {"features": "cl2"}}
    assert "centroid" in names("all-inductive", dataset=DATASET, **everything)[0]
    with pytest.raises(
        StudyError, match="none of the heads in 'all-inductive' can run here: features=cl2 needs a base split"
    ):
        names("all-inductive", dataset=WITHOUT_BASE, **everything)
    with pytest.raises(
        StudyError, match="centroid cannot run: features=cl2 needs a base split, which toy does not have"
    ):
        names("centroid", "all-inductive", dataset=WITHOUT_BASE, **everything)
    found, left_out = names("all-inductive", dataset=WITHOUT_BASE, hyper_parameters={"covariance": "base"})
    assert "lda" not in found
    assert left_out == [
        "lda is left out of all-inductive: covariance=base needs a base split, which toy does not have. "
        "Use covariance=support.",
    ]


def test_at_one_shot_cross_validation_leaves_out_what_would_choose(monkeypatch):
    monkeypatch.setattr(ADAPTATIONS["centroid"].factory, "grid", {})
    found, left_out = names("all-inductive", choose="support-cv", shots=(1, 5))
    assert "centroid" in found
    assert "logistic" not in found
    assert any(one.startswith("logistic is left out of all-inductive: support-cv chooses") for one in left_out)
    assert len(left_out) == len(set(left_out)) == len(members_of("all-inductive")) - len(found)


def test_a_value_that_a_head_refuses_is_an_error_in_a_group_too():
    with pytest.raises(StudyError, match="C of logistic should be positive"):
        names("all-inductive", hyper_parameters={"C": -1.0})
    with pytest.raises(StudyError, match="has a hyper-parameter 'sizes'"):
        planned_adaptations(expand_groups(Study(adaptations=("all-inductive",), hyper_parameters={"sizes": 3}))[0])


def test_the_record_names_the_members_of_a_group(tmp_path, monkeypatch):
    toy_sweeps.use(DATASET, monkeypatch)
    monkeypatch.setattr("fewshot_bench.study.methods.OWN_NAMES", {"adaptation": ("centroid", "finetune", "logistic")})
    fields = {"losses": ("ce",), "hyper_parameters": {}}
    result = run_study(toy_sweeps.study(tmp_path, adaptations=("all-inductive",), **fields))
    assert [cell.method.adaptation for cell in result.cells] == ["centroid", "logistic"]
    assert all(cell.provenance["study"]["adaptations"] == ["centroid", "logistic"] for cell in result.cells)


def test_who_is_left_out_is_told_once_for_all_networks(tmp_path, monkeypatch):
    toy_sweeps.use(WITHOUT_BASE, monkeypatch)
    monkeypatch.setattr("fewshot_bench.study.methods.OWN_NAMES", {"adaptation": ("centroid", "logistic")})
    monkeypatch.setattr(
        "fewshot_bench.study.methods._need_of_base",
        lambda one: ("C=2", "C=1") if one.name == "logistic" else None,
    )
    study = toy_sweeps.study(tmp_path, adaptations=("all",), losses=("ce",), hyper_parameters={})
    result = run_plan(
        StudyPlan.of_options([study.model_copy(update={"backbone": name}) for name in ("conv4_32", "conv4_64")])
    )
    assert result.left_out == ["logistic is left out of all: C=2 needs a base split, which toy does not have. Use C=1."]
    assert [cell.method.name for cell in result.cells] == ["conv4_32/centroid", "conv4_64/centroid"]


def test_a_head_that_fails_on_the_embeddings_does_not_keep_the_others_from_running(tmp_path, monkeypatch):
    toy_sweeps.use(DATASET, monkeypatch)
    monkeypatch.setattr("fewshot_bench.study.methods.OWN_NAMES", {"adaptation": ("centroid", "logistic")})
    monkeypatch.setattr(ADAPTATIONS["logistic"].factory, "scores", lambda *_: 1 / 0)
    study = toy_sweeps.study(tmp_path, adaptations=("all",), losses=("ce",), hyper_parameters={})
    result = run_plan(StudyPlan.of_options([study]))
    assert [name for name, _, _ in result.failures] == ["conv4_32/logistic"]
    empty = result.results[0].without_outcomes
    assert [cell.method.name for cell in result.cells if cell.key not in empty] == ["conv4_32/centroid"]

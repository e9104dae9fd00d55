"""What a study gives an adaptation beside plain embeddings, and what another name of it stands for."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import toy_sweeps

from fewshot_bench.adaptation import LDA, Centroid, Logistic
from fewshot_bench.audit.rebuild import recorded_study
from fewshot_bench.backbones import BackboneRequest, create_backbone, embed
from fewshot_bench.datasets.dataset import Dataset
from fewshot_bench.engine.engine import LocalEngine
from fewshot_bench.errors import DatasetError, StudyError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.progress import SILENT
from fewshot_bench.study import StudyPlan, run_study
from fewshot_bench.study.dry_run import estimate
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.resolved import resolve_study
from fewshot_bench.study.workers import ClassifierBuilder

SIMPLESHOT = {"adaptations": ("simpleshot",), "hyper_parameters": {}}
CENTROID = {"adaptations": ("centroid",), "hyper_parameters": {"features": "cl2", "metric": "euclidean"}}
BASE = {"adaptations": ("lda",), "hyper_parameters": {"covariance": "base"}}


@pytest.fixture
def toy(monkeypatch):
    dataset = toy_sweeps.toy_dataset()
    toy_sweeps.use(dataset, monkeypatch)
    return dataset


def without_base(dataset):
    return Dataset("toy", {name: split for name, split in dataset.splits.items() if name != "base"})


def source_of(tmp_path, dataset, **changes):
    backbone = create_backbone(BackboneRequest("conv4_32", native_size=16))
    resolved = resolve_study(toy_sweeps.study(tmp_path, **changes), dataset=dataset)
    return backbone, ClassifierBuilder(resolved, backbone, LocalEngine("cpu"), SILENT)


class TestTheCovarianceOfTheBaseSplit:
    @pytest.mark.parametrize("features", ["raw", "l2", "cl2"])
    def test_is_that_of_its_embeddings_with_the_same_features(self, features, tmp_path, toy):
        backbone, source = source_of(tmp_path, toy, **BASE)
        split = source.factory(LDA(covariance="base", features=features)).embeddings.on("cpu")
        base = embed(toy.base, backbone, device="cpu").astype(np.float64)
        rows = base - base.mean(0) if features == "cl2" else base
        rows = rows if features == "raw" else rows / np.linalg.norm(rows, axis=1, keepdims=True)
        away = rows - rows.reshape(5, 8, -1).mean(1).repeat(8, axis=0)
        expected = away.T @ away / len(rows)
        assert split.base_covariance is not None
        np.testing.assert_allclose(split.base_covariance.numpy(), expected, rtol=0, atol=1e-4 * expected.max())

    def test_goes_to_other_processes(self, tmp_path, toy):
        _, source = source_of(tmp_path, toy, **BASE)
        recipe = source.factory(LDA(covariance="base"))
        here, there = (one.embeddings.on("cpu") for one in (recipe, pickle.loads(pickle.dumps(recipe))))
        np.testing.assert_array_equal(there.base_covariance.numpy(), here.base_covariance.numpy())

    def test_is_only_there_where_it_is_wanted(self, tmp_path, toy):
        _, source = source_of(tmp_path, toy, **BASE)
        assert source.factory(LDA(covariance="base")).embeddings.base_covariance is not None
        assert source.factory(LDA()).embeddings.base_covariance is None

    def test_makes_a_study_whose_method_has_it_in_its_name(self, tmp_path, toy):
        (cell,) = run_study(toy_sweeps.study(tmp_path, **BASE)).cells
        assert cell.method.name == "conv4_32/lda@covariance=base"

    def test_needs_a_base_split(self, tmp_path, toy):
        _, source = source_of(tmp_path, without_base(toy))
        with pytest.raises(DatasetError, match="covariance=base needs embeddings of the base split: toy has no base"):
            source.factory(LDA(covariance="base"))
        with pytest.raises(
            DatasetError, match=r"features=cl2 needs embeddings of the base split: toy has no base.*Use features=l2"
        ):
            source.factory(Centroid(features="cl2"))

    @pytest.mark.parametrize("named", [SIMPLESHOT, CENTROID, BASE], ids=["simpleshot", "centroid", "lda"])
    def test_is_missed_before_anything_is_computed(self, named, tmp_path, toy, monkeypatch):
        toy_sweeps.use(without_base(toy), monkeypatch)
        with pytest.raises(StudyError, match=r"cannot run: .* needs a base split, which toy does not have\. Use "):
            run_study(toy_sweeps.study(tmp_path, **named))
        assert OutcomeStore(tmp_path / "outcomes").cells() == []

    def test_is_counted_by_a_dry_run(self, tmp_path, toy):
        plan = StudyPlan(
            name="toy", studies=(toy_sweeps.study(tmp_path, **BASE),), places=("study.toml",), baselines={}
        )
        units = [one.units for one in estimate(plan).work if one.kind == "embeddings"]
        assert units == [len(toy.novel), len(toy.base)]


VIEWS = {"adaptations": ("logistic",), "hyper_parameters": {"views": 5}, "shots": (2,)}


class TestViewsForLogisticRegression:
    def test_are_made_by_the_study_and_named_in_the_method(self, tmp_path, toy):
        (cell,) = run_study(toy_sweeps.study(tmp_path, **VIEWS)).cells
        assert cell.method.name == "conv4_32/logistic@views=5"
        assert cell.method.hyper_parameters["adaptation"]["views"] == 5

    def test_are_five_and_differ_from_the_images_and_from_each_other(self, tmp_path, toy):
        _, source = source_of(tmp_path, toy, **VIEWS)
        split = source.factory(Logistic(views=5)).embeddings.on("cpu")
        assert split.views == 5
        others = source.factory(Logistic(views=5, augmentation="auto")).embeddings.on("cpu")
        assert not np.allclose(others.embeddings.numpy(), split.embeddings.numpy(), atol=1e-3)
        rows = split.embeddings.view(6, split.images, -1)
        for one in range(6):
            for other in range(one):
                assert not np.allclose(rows[one].numpy(), rows[other].numpy(), atol=1e-3)

    def test_leave_the_method_without_views_as_it_was(self, tmp_path, toy):
        (cell,) = run_study(toy_sweeps.study(tmp_path, adaptations=("logistic",), hyper_parameters={})).cells
        assert "views" not in cell.method.hyper_parameters["adaptation"]


class TestSimpleShot:
    def test_is_the_centroid_method_with_its_settings(self, tmp_path, toy):
        (first,) = run_study(toy_sweeps.study(tmp_path / "first", **SIMPLESHOT)).cells
        (second,) = run_study(toy_sweeps.study(tmp_path / "second", **CENTROID)).cells
        assert first.method.fingerprint == second.method.fingerprint
        assert first.method.name == second.method.name == "conv4_32/centroid@features=cl2,metric=euclidean"

    def test_beside_the_method_that_it_stands_for_is_one_cell(self, tmp_path, toy):
        both = CENTROID | {"adaptations": ("centroid", "simpleshot")}
        assert len({cell.key for cell in run_study(toy_sweeps.study(tmp_path, **both)).cells}) == 1
        assert len(OutcomeStore(tmp_path / "outcomes").cells()) == 1

    @pytest.mark.parametrize(("setting", "value"), [("features", "l2"), ("metric", "cosine")])
    def test_refuses_what_contradicts_it(self, setting, value, tmp_path):
        study = toy_sweeps.study(tmp_path, **SIMPLESHOT | {"hyper_parameters": {setting: value}})
        with pytest.raises(StudyError, match=rf"simpleshot means {setting}=.*, so --set {setting}={value} contradicts"):
            planned_adaptations(study)

    def test_takes_what_agrees_with_it_beside_other_adaptations(self, tmp_path):
        fields = {"adaptations": ("simpleshot", "logistic"), "hyper_parameters": {"features": "cl2", "C": 2.0}}
        planned = planned_adaptations(toy_sweeps.study(tmp_path, **fields))
        assert planned == [Centroid(features="cl2", metric="euclidean"), Logistic(features="cl2", C=2.0)]

    def test_is_found_again_by_an_audit_among_other_adaptations(self, tmp_path, toy):
        fields = SIMPLESHOT | {"adaptations": ("logistic", "simpleshot")}
        cells = run_study(toy_sweeps.study(tmp_path, **fields)).cells
        cell = next(cell for cell in cells if cell.method.adaptation == "centroid")
        study = recorded_study(cell)
        assert study.adaptations == ("simpleshot",)
        assert planned_adaptations(study) == [Centroid(features="cl2", metric="euclidean")]

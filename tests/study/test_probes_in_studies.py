"""Linear and kNN probes of whole datasets: what they learn from, choose on and predict."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import toy_split
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier

from fewshot_bench._io.locations import cache_folder
from fewshot_bench._io.tensors import read_metadata
from fewshot_bench.adaptation import KNNProbing, LinearProbing
from fewshot_bench.audit.rebuild import rebuild
from fewshot_bench.audit.selection import RerunOptions
from fewshot_bench.backbones import BackboneRequest, embed
from fewshot_bench.cache import PROBES
from fewshot_bench.datasets import DATASETS, Dataset, ImageSplit
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.errors import StudyError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.progress import SILENT
from fewshot_bench.registry import Entry
from fewshot_bench.study import Study, StudyPlan, probes, run_study
from fewshot_bench.study.base_stage import initialised_backbone
from fewshot_bench.study.dry_run import estimate
from fewshot_bench.study.probes import ProbeImages

NAMES = tuple(f"class {label}" for label in range(4))
BOTH = ("linear-probe", "knn-probe")


def split_of(name: SplitName, images: int, seed: int = 5) -> ImageSplit:
    return replace(toy_split(name, classes=4, images=images, seed=seed), class_names=NAMES, dataset="probed")


def known_as(monkeypatch: pytest.MonkeyPatch, *splits: ImageSplit) -> Dataset:
    dataset = Dataset("probed", {split.name: split for split in splits})
    monkeypatch.setitem(DATASETS._entries, "probed", Entry("probed", lambda: dataset, "for classification"))
    return dataset


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> Dataset:
    return known_as(monkeypatch, split_of("train", 20), split_of("test", 9, seed=6))


def study_of(results: Path, adaptations: tuple[str, ...] = BOTH, **settings: Any) -> Study:
    fields = {"dataset": "probed", "backbone": "conv4_32", "base_losses": (), "device": "cpu", "results": results}
    return Study(**{"protocol": "full", "adaptations": adaptations, **fields, **settings})


def facts() -> list[dict[str, str]]:
    """What the cache knows of the probes that were fitted."""
    return [dict(read_metadata(path)) for path in sorted((cache_folder() / PROBES).glob("*.safetensors"))]


def embedded(split: ImageSplit) -> np.ndarray:
    return embed(split, initialised_backbone(BackboneRequest("conv4_32", 3, 16), 0), use_cache=False)


@pytest.mark.slow
class TestInAStudy:
    def test_outcomes_are_those_of_scikit_learn_on_the_embeddings_of_the_whole_train_split(
        self, tmp_path: Path, known: Dataset
    ) -> None:
        cells = run_study(study_of(tmp_path, hyper_parameters={"C": 0.5, "k": 7, "temperature": 0.07})).cells
        train, test = embedded(known.split("train")), embedded(known.split("test"))
        labels = known.split("train").labels
        linear = LogisticRegression(C=0.5, tol=1e-10, max_iter=10_000).fit(train.astype(float), labels)
        nearest = KNeighborsClassifier(7, metric="cosine", weights=lambda apart: np.exp(-apart / 0.07))
        for cell, theirs in zip(cells, (linear, nearest.fit(train, labels)), strict=True):
            found = OutcomeStore(tmp_path / "outcomes").read(cell)
            expected = theirs.predict_proba(test.astype(float))
            assert [int(row[0]) for row in found["predictions"]] == expected.argmax(axis=1).tolist()
            np.testing.assert_allclose(found["confidence"], expected.max(axis=1), rtol=0, atol=1e-3)
        assert [cell.method.name for cell in cells] == [
            "conv4_32/linear-probe@C=0.5",
            "conv4_32/knn-probe@k=7,temperature=0.07",
        ]

    def test_no_test_image_changes_what_is_learned_and_chosen(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: Dataset
    ) -> None:
        run_study(study_of(tmp_path / "one"))
        before = facts()
        other = split_of("test", 9, seed=7)
        swapped = replace(other, images=other.images[::-1].copy(), fingerprint="other")
        known_as(monkeypatch, known.split("train"), swapped)
        monkeypatch.setattr(probes, "_fitted", None)
        run_study(study_of(tmp_path / "two"))
        assert facts() == before
        assert len(before) == len(BOTH)

    def test_what_was_chosen_is_said_and_kept(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        run_study(study_of(tmp_path, ("linear-probe",)))
        (known,) = facts()
        assert known["chosen"] in caplog.text
        assert "8 images of the train split, held out of 80" in caplog.text

    def test_a_cell_comes_out_again(self, tmp_path: Path, known: Dataset) -> None:
        for cell in run_study(study_of(tmp_path)).cells:
            again = rebuild(cell, known, RerunOptions(device="cpu"), SILENT)
            assert again.card.fingerprint == cell.method.fingerprint

    def test_a_dry_run_embeds_and_fits_nothing(self, tmp_path: Path) -> None:
        cells = estimate(StudyPlan.of_options([study_of(tmp_path)])).cells
        assert [cell.method.rpartition("/")[2] for cell in cells] == list(BOTH)
        assert not list(cache_folder().rglob("*.safetensors"))

    def test_too_large_a_k_is_refused_in_one_line(self, tmp_path: Path) -> None:
        with pytest.raises(StudyError, match=r"k = 500 neighbours .* there are 72"):
            run_study(study_of(tmp_path, ("knn-probe",), hyper_parameters={"k": 500}))


class TestImages:
    @pytest.mark.parametrize("adaptation", [LinearProbing(), KNNProbing()])
    def test_a_tenth_of_each_class_is_held_out_and_no_image_is_in_both_parts(
        self, adaptation: LinearProbing | KNNProbing, known: Dataset
    ) -> None:
        images = ProbeImages.of(known, adaptation)
        assert np.bincount(known.split("train").labels[images.held_out]).tolist() == [2, 2, 2, 2]
        assert sorted([*images.learned, *images.held_out]) == list(range(80))
        assert [split.name for split in images.splits] == ["train"]

    def test_a_validation_split_of_the_same_classes_counts_before_a_share(
        self, monkeypatch: pytest.MonkeyPatch, known: Dataset
    ) -> None:
        dataset = known_as(monkeypatch, *known.splits.values(), split_of("validation", 6, seed=8))
        images = ProbeImages.of(dataset, LinearProbing())
        assert (len(images.learned), len(images.held_out)) == (80, 24)
        assert [split.name for split in images.splits] == ["train", "validation"]


@pytest.mark.parametrize("settings", [{"C": -1.0}, {"features": "cl2"}, {"validation_share": 1.0}])
def test_settings_that_no_linear_probe_takes_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=f"{next(iter(settings))} of linear-probe"):
        LinearProbing(**settings)


@pytest.mark.parametrize("settings", [{"k": 0}, {"temperature": 0.0}, {"temperature": 0.1, "is_weighted": False}])
def test_settings_that_no_knn_probe_takes_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(StudyError, match=f"{next(iter(settings))} of knn-probe"):
        KNNProbing(**settings)

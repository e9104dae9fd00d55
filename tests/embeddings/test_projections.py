"""Layouts of embeddings: which images are drawn, and that the same seed draws the same picture."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest
from sklearn.decomposition import PCA

from fewshot_bench.embeddings import projections
from fewshot_bench.embeddings.projections import chosen_images, projected, refuse_missing_package
from fewshot_bench.errors import EmbeddingError


def clusters(classes=3, per_class=8, size=6):
    generator = np.random.default_rng(0)
    centres = 5 * np.eye(size)[:classes]
    points = np.repeat(centres, per_class, axis=0) + generator.normal(size=(classes * per_class, size)) * 0.3
    return points.astype(np.float32)


def test_pca_is_that_of_unit_vectors_up_to_signs_which_are_fixed():
    points = clusters()
    found, _ = projected(points, "pca")
    unit = points / np.linalg.norm(points, axis=1, keepdims=True)
    np.testing.assert_allclose(np.abs(found), np.abs(PCA(2).fit_transform(unit)), atol=1e-5)
    np.testing.assert_allclose(projected(7 * points, "pca")[0], found, atol=1e-5)


@pytest.mark.slow
def test_tsne_gives_the_same_layout_for_a_seed_and_keeps_clusters_apart():
    points, labels = clusters(), np.repeat(np.arange(3), 8)
    found, settings = projected(points, "tsne", seed=3)
    np.testing.assert_array_equal(found, projected(points, "tsne", seed=3)[0])
    assert settings["perplexity"] == pytest.approx(23 / 3)
    distances = np.linalg.norm(found[:, None] - found[None], axis=2) + np.diag(np.full(24, np.inf))
    assert (labels[distances.argmin(axis=1)] == labels).all()


def test_identical_embeddings_can_be_drawn():
    assert np.isfinite(projected(np.ones((6, 4), np.float32), "pca")[0]).all()


def test_one_dimension_can_be_drawn():
    assert projected(np.arange(1, 7, dtype=np.float32)[:, None], "pca")[0].shape == (6, 2)


@pytest.mark.parametrize("points", [np.ones((2, 4)), np.ones(4), np.full((5, 4), np.nan)])
def test_what_cannot_be_drawn_is_refused(points):
    with pytest.raises(EmbeddingError, match="a layout needs"):
        projected(points.astype(np.float32), "pca")


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setattr(projections, "find_spec", lambda module: None)
    with pytest.raises(EmbeddingError, match=r"umap-learn.*fewshot-bench\[projections\].*--layout pca"):
        refuse_missing_package("umap")
    with pytest.raises(EmbeddingError, match="scikit-learn"):
        projected(clusters(), "tsne")
    refuse_missing_package("pca")


def test_umap_gets_the_seed_and_no_more_neighbours_than_there_are(monkeypatch):
    asked = {}

    class UMAP:
        def __init__(self, **settings):
            asked.update(settings)

        def fit_transform(self, points):
            return points[:, :2]

    module = ModuleType("umap")
    module.UMAP = UMAP
    monkeypatch.setitem(sys.modules, "umap", module)
    found, settings = projected(clusters(2, 4), "umap", seed=5)
    assert found.shape == (8, 2)
    assert asked == {"n_components": 2, "random_state": 5, **settings}
    assert settings["n_neighbors"] == 7


def test_every_class_gives_as_many_images_and_the_seed_decides_which():
    sizes = [60] * 25 + [10]
    classes, rows = chosen_images(sizes, seed=1)
    assert len(classes) == 20
    first = np.concatenate([[0], np.cumsum(sizes)])
    owners = np.searchsorted(first, rows, side="right") - 1
    counts = {label: (owners == label).sum() for label in classes}
    assert all(counts[label] == min(50, sizes[label]) for label in classes)
    assert len(set(rows.tolist())) == len(rows)
    assert chosen_images(sizes, seed=2)[0].tolist() != classes.tolist()

"""A head that is fitted once scores queries as an evaluation does, whatever else is asked with them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import pytest
import torch
from adaptations_to_test import INDUCTIVE, TRANSDUCTIVE
from scipy.special import log_softmax
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier, NearestCentroid
from sklearn.svm import LinearSVC

from fewshot_bench.adaptation import (
    ADAPTATIONS,
    LDA,
    Centroid,
    EmbeddedSplit,
    FinetuneHead,
    KNearestNeighbours,
    Logistic,
    Matching,
    Ridge,
    SupportVectorMachine,
)
from fewshot_bench.adaptation.checked_predictions import checked_scores
from fewshot_bench.adaptation.fitted_head import LinearHead, SupportHead, fit_head, takes_uneven_classes
from fewshot_bench.errors import StudyError

WAY, SHOT, QUERIES, SIZE, VIEWS = 4, 5, 15, 24, 2


def split_for(adaptation, seed=0):
    """Overlapping classes of non-negative embeddings, with views, as an adaptation wants them."""
    generator = torch.Generator().manual_seed(seed)
    per_class = SHOT + QUERIES
    images = torch.randn(WAY, 1, SIZE, generator=generator) + torch.randn(WAY, per_class, SIZE, generator=generator)
    plain = images.flatten(0, 1)
    views = [plain + 0.1 * torch.randn(plain.shape, generator=generator) for _ in range(VIEWS)]
    split = EmbeddedSplit(torch.cat([plain, *views]).abs(), len(plain)).with_features(adaptation.features)
    if adaptation.needs_base_covariance:
        split = replace(split, base_covariance=split.covariance_within([per_class] * WAY))
    return split


def images_of_classes():
    rows = torch.arange(WAY * (SHOT + QUERIES)).view(WAY, -1)
    return rows[:, :SHOT], rows[:, SHOT:].flatten()


@pytest.mark.parametrize("name", INDUCTIVE)
def test_a_fitted_head_scores_queries_as_an_evaluation_does(name):
    adaptation = INDUCTIVE[name]
    split, (support, query) = split_for(adaptation), images_of_classes()
    expected = checked_scores(adaptation, split, support.unsqueeze(0), query.unsqueeze(0))[0].double()
    head = fit_head(adaptation, split, list(support))
    found = head.scores(split.rows(query)).double()
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    alone = head.scores(split.rows(query[7:8])).double()  # whatever else is asked
    assert torch.allclose(alone[0], found[7], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", [name for name in INDUCTIVE if takes_uneven_classes(INDUCTIVE[name])])
def test_uneven_classes_of_one_size_are_even_classes(name):
    adaptation = INDUCTIVE[name]
    split, (support, query) = split_for(adaptation), images_of_classes()
    labels = torch.arange(WAY).repeat_interleave(SHOT)
    expected = adaptation.scores(split, support.unsqueeze(0), query.unsqueeze(0))[0]
    found = adaptation.uneven_scores(split, support.flatten(), labels, query)
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_all_heads_of_linear_scores_keep_weights_instead_of_images():
    kept = {}
    for name, adaptation in INDUCTIVE.items():
        head = fit_head(adaptation, split_for(adaptation), list(images_of_classes()[0]))
        kept[name] = isinstance(head, LinearHead)
    with_images = {name for name, is_linear in kept.items() if not is_linear}
    assert with_images == {"centroid-euclidean", "knn", "knn-euclidean", "knn-5", "matching", "matching-100"}


UNEVEN = (1, 3, 2, 5)


def uneven(adaptation):
    """Features and labels of an uneven support set, and features of queries, as arrays."""
    split, (support, query) = split_for(adaptation), images_of_classes()
    chosen = [rows[:size] for rows, size in zip(support, UNEVEN, strict=True)]
    head = fit_head(adaptation, split, chosen)
    labels = np.repeat(np.arange(WAY), UNEVEN)
    found = head.scores(split.rows(query)).double().numpy()
    return split.rows(torch.cat(chosen)).double().numpy(), labels, split.rows(query).double().numpy(), found


def test_logistic_on_uneven_classes_is_scikit_learns():
    X, y, queries, found = uneven(Logistic(C=3.0, features="raw"))
    theirs = LogisticRegression(C=3.0, tol=1e-10, max_iter=10_000).fit(X, y).decision_function(queries)
    assert np.allclose(log_softmax(found, axis=1), log_softmax(theirs, axis=1), atol=1e-3)


def test_ridge_on_uneven_classes_is_the_closed_form():
    X, y, queries, found = uneven(Ridge(penalty=0.7))
    weights = np.linalg.solve(X.T @ X + 0.7 * np.eye(SIZE), X.T @ np.eye(WAY)[y])
    assert np.allclose(found, queries @ weights, atol=1e-5)


def test_the_support_vector_machine_on_uneven_classes_is_scikit_learns():
    X, y, queries, found = uneven(SupportVectorMachine(C=0.5))
    theirs = LinearSVC(C=0.5, multi_class="crammer_singer", fit_intercept=False, tol=1e-8, max_iter=100_000).fit(X, y)
    assert np.allclose(found, queries @ theirs.coef_.T, atol=2e-3)


def test_lda_on_uneven_classes_is_the_formula_with_equally_likely_classes():
    X, y, queries, found = uneven(LDA(shrinkage=0.4, features="raw"))
    means = np.stack([X[y == label].mean(0) for label in range(WAY)])
    covariance = (X - means[y]).T @ (X - means[y]) / len(X)
    factor = 0.4 * np.trace(covariance) / SIZE
    inverse = np.linalg.inv(0.6 * covariance + factor * np.eye(SIZE))
    expected = queries @ inverse @ means.T - 0.5 * np.einsum("cd,de,ce->c", means, inverse, means)
    assert np.allclose(found, factor * expected, atol=1e-3 * np.abs(found).max())


def test_centroids_of_uneven_classes_are_scikit_learns():
    X, y, queries, found = uneven(Centroid(metric="euclidean", features="raw"))
    assert (found.argmax(1) == NearestCentroid().fit(X, y).predict(queries)).all()


def test_neighbours_in_uneven_classes_are_scikit_learns():
    X, y, queries, found = uneven(KNearestNeighbours(k=3, metric="euclidean", features="raw"))
    votes = KNeighborsClassifier(3).fit(X, y).predict_proba(queries)
    assert np.abs(found - votes).max() < 1 / 3 / 2


def test_more_neighbours_than_images_are_all_images():
    _, _, _, found = uneven(KNearestNeighbours(k=99))
    assert (found.argmax(1) == 3).all()  # the largest class


def test_attention_over_uneven_classes_is_a_softmax_over_all_images():
    X, y, queries, found = uneven(Matching(scale=7.0))
    attention = np.exp(7.0 * queries @ X.T)
    shares = attention @ np.eye(WAY)[y]
    assert np.allclose(np.exp(found), shares / shares.sum(1, keepdims=True), atol=1e-5)


@pytest.mark.parametrize("name", ["tim", "entropy", "label-propagation"])
def test_a_transductive_method_leaves_no_classifier(name):
    adaptation = TRANSDUCTIVE[name]
    with pytest.raises(StudyError, match="transductive"):
        fit_head(adaptation, split_for(adaptation), list(images_of_classes()[0]))


@pytest.mark.parametrize("choose", ["support-cv", "ensemble"])
@pytest.mark.parametrize("method", [Logistic, Centroid, KNearestNeighbours])
def test_what_is_chosen_from_the_support_set_is_chosen_once(choose, method):
    adaptation = method(choose=choose)
    split, (support, query) = split_for(adaptation), images_of_classes()
    expected = checked_scores(adaptation, split, support.unsqueeze(0), query.unsqueeze(0))[0].double()
    head = fit_head(adaptation, split, list(support))
    found = head.scores(split.rows(query)).double()
    assert torch.equal(found.argmax(1), expected.argmax(1))
    assert torch.allclose(found, expected, atol=1e-4, rtol=1e-4)
    if isinstance(head, SupportHead):
        assert head.adaptation.choose == ("none" if choose == "support-cv" else "ensemble")


@dataclass(frozen=True, kw_only=True)
class Clamped(Logistic):
    """A plug-in that replaces the scores of a head, and inherits what the head says of its own."""

    name: ClassVar[str] = "clamped"

    def scores(self, split, support, query):
        return super().scores(split, support, query).clamp(min=0)


@dataclass(frozen=True, kw_only=True)
class Boasting(Clamped):
    """A plug-in that calls its scores linear, and they are not."""

    name: ClassVar[str] = "boasting"

    @property
    def linear_in(self):
        return "embedding"


@pytest.mark.parametrize("adaptation", [Clamped(), Boasting()])
def test_scores_that_are_not_linear_are_kept_as_a_support_set(adaptation):
    split, (support, query) = split_for(adaptation), images_of_classes()
    assert not takes_uneven_classes(adaptation)
    head = fit_head(adaptation, split, list(support))
    assert isinstance(head, SupportHead)
    expected = adaptation.scores(split, support.unsqueeze(0), query.unsqueeze(0))[0]
    assert torch.equal(head.scores(split.rows(query)), expected)


def test_every_inductive_method_of_the_registry_says_what_its_scores_are():
    kinds = {}
    for entry in ADAPTATIONS:
        adaptation = entry.factory(**entry.preset) if hasattr(entry.factory, "score_kind") else None
        if adaptation is not None and not adaptation.is_transductive:
            kinds[entry.name] = adaptation.score_kind
    assert len(kinds) >= 10
    assert "score" not in kinds.values()
    assert FinetuneHead(loss="ce+schane", lambda_=1.0).score_kind == "score"  # without cross-entropy: no probability

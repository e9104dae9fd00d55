from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from fewshot_bench.embeddings import labelled_embeddings, linear_probe
from fewshot_bench.embeddings.labelled_embeddings import LabelledEmbeddings
from fewshot_bench.embeddings.linear_probe import DINOV2_C, PATIENCE, chosen_linear_probe, fitted_linear_probe
from fewshot_bench.errors import EmbeddingError, ShapeError

CLASSES, SIZE = 4, 6


def clusters(images=120, *, spread=1.0, seed=0, mean=0.0, classes=CLASSES):
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(classes, SIZE))
    labels = np.arange(images) % classes
    return mean + centers[labels] + spread * generator.normal(size=(images, SIZE)), labels


def features_of(embeddings, features, training):
    if features == "l2":
        return embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    if features == "standard":
        return (embeddings - training.mean(axis=0)) / training.std(axis=0)
    return embeddings


def objective(features, labels, weights, intercepts, C):
    logits = features @ weights.T + intercepts
    logits -= logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits).sum(axis=1)) - logits[np.arange(len(labels)), labels]
    return (weights**2).sum() / 2 + C * losses.sum()


@pytest.mark.slow
@pytest.mark.parametrize("features", ["raw", "l2", "standard"])
@pytest.mark.parametrize("C", [0.01, 1.0, 30.0])
class TestAgainstScikitLearn:
    def test_probabilities_and_objective_are_the_same(self, features, C):
        embeddings, labels = clusters(mean=2.0)
        tested, _ = clusters(seed=1, mean=2.0)
        learned = features_of(embeddings, features, embeddings)
        theirs = LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(learned, labels)
        probe = fitted_linear_probe(LabelledEmbeddings.of(embeddings, labels), classes=CLASSES, C=C, features=features)
        expected = theirs.predict_proba(features_of(tested, features, embeddings))
        np.testing.assert_allclose(np.exp(probe.log_probabilities(tested)), expected, rtol=0, atol=1e-4)
        if features == "raw":
            np.testing.assert_allclose(probe.weights, theirs.coef_, rtol=0, atol=1e-4 * np.abs(theirs.coef_).max())
            found = objective(embeddings, labels, probe.weights, probe.intercepts, C)
            best = objective(embeddings, labels, theirs.coef_, theirs.intercept_, C)
            assert found == pytest.approx(best, rel=1e-8)
        assert probe.has_converged


@pytest.mark.slow
@pytest.mark.parametrize("changed", [("BLOCK_NUMBERS", 40), ("_SMALL", 0), ("_LARGEST_FACTOR", 2), ("_REFRESH", 3)])
def test_blocks_and_the_way_to_the_optimum_change_no_prediction(monkeypatch, changed):
    embeddings, labels = clusters()
    images = LabelledEmbeddings.of(embeddings, labels)
    whole = fitted_linear_probe(images, classes=CLASSES, C=1.0).log_probabilities(embeddings)
    name, value = changed
    for module in (linear_probe, labelled_embeddings):
        monkeypatch.setattr(module, name, value, raising=False)
    monkeypatch.setattr(linear_probe, "free_bytes", lambda device: 0)
    found = fitted_linear_probe(images, classes=CLASSES, C=1.0).log_probabilities(embeddings)
    np.testing.assert_allclose(found, whole, rtol=0, atol=1e-5)


def test_a_class_without_training_images_is_never_predicted():
    embeddings, labels = clusters()
    known = labels != 2
    probe = fitted_linear_probe(LabelledEmbeddings.of(embeddings[known], labels[known]), classes=CLASSES, C=1.0)
    theirs = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(embeddings[known], labels[known])
    found = probe.log_probabilities(embeddings)
    assert (found[:, 2] == -np.inf).all()
    np.testing.assert_allclose(found[:, theirs.classes_], theirs.predict_log_proba(embeddings), rtol=0, atol=1e-4)


@pytest.mark.slow
class TestChoice:
    def test_the_penalty_has_the_highest_validation_accuracy_and_the_last_fit_sees_the_validation_part_too(self):
        embeddings, labels = clusters(60, spread=3.0)
        held_out, truth = clusters(80, spread=3.0, seed=1)
        candidates = (1e-3, 1e-2, 0.1, 1.0, 10.0)
        probe, choice = chosen_linear_probe(
            LabelledEmbeddings.of(embeddings, labels),
            LabelledEmbeddings.of(held_out, truth),
            classes=CLASSES,
            candidates=candidates[::-1],
        )
        accuracies = [
            LogisticRegression(C=C, tol=1e-10, max_iter=10_000).fit(embeddings, labels).score(held_out, truth)
            for C in candidates
        ]
        assert choice.tried == tuple(zip(candidates, accuracies, strict=True))
        assert choice.C == candidates[int(np.argmax(accuracies))] == probe.C
        together = np.concatenate([embeddings, held_out]), np.concatenate([labels, truth])
        theirs = LogisticRegression(C=choice.C, tol=1e-10, max_iter=10_000).fit(*together)
        tested, _ = clusters(seed=2)
        np.testing.assert_allclose(probe.log_probabilities(tested), theirs.predict_log_proba(tested), rtol=0, atol=1e-4)

    def test_a_search_ends_when_larger_values_gain_nothing(self):
        embeddings, labels = clusters()
        training, validation = np.arange(0, 120, 2), np.arange(1, 120, 2)
        _, choice = chosen_linear_probe(
            LabelledEmbeddings(embeddings, training, labels[training] // 2),
            LabelledEmbeddings(embeddings, validation, labels[validation] // 2),
            classes=2,
            max_iterations=100,
        )
        accuracies = [accuracy for _, accuracy in choice.tried]
        assert max(accuracies) < 1
        assert max(accuracies[-PATIENCE:]) <= max(accuracies[:-PATIENCE])
        assert len(choice.tried) < len(DINOV2_C)
        assert DINOV2_C[accuracies.index(max(accuracies))] == choice.C

    def test_a_search_ends_when_every_image_is_right(self):
        embeddings, labels = clusters(spread=0.01)
        images = LabelledEmbeddings.of(embeddings, labels)
        _, choice = chosen_linear_probe(images, images, classes=CLASSES)
        assert [accuracy for _, accuracy in choice.tried].index(1.0) == len(choice.tried) - 1 < len(DINOV2_C) - 1

    def test_a_search_goes_on_while_the_penalty_leaves_only_one_class_to_predict(self):
        embeddings, labels = clusters(spread=0.3)
        often = np.concatenate([np.arange(120), np.tile(np.flatnonzero(labels == 0), 6)])
        images = LabelledEmbeddings.of(embeddings[often] / 10, labels[often])
        candidates = (*DINOV2_C[: PATIENCE + 2], 1.0, 10.0)
        _, choice = chosen_linear_probe(images, images, classes=CLASSES, candidates=candidates)
        assert len({accuracy for _, accuracy in choice.tried[: PATIENCE + 2]}) == 1
        assert max(accuracy for _, accuracy in choice.tried) > choice.tried[0][1] + 0.1

    def test_rows_of_one_array_are_the_same_as_arrays_of_their_own(self):
        embeddings, labels = clusters(90)
        rows, others = np.arange(0, 90, 3), np.setdiff1d(np.arange(90), np.arange(0, 90, 3))
        of_rows = chosen_linear_probe(
            LabelledEmbeddings(embeddings, others, labels[others]),
            LabelledEmbeddings(embeddings, rows, labels[rows]),
            classes=CLASSES,
            candidates=(0.1, 1.0),
        )
        of_arrays = chosen_linear_probe(
            LabelledEmbeddings.of(embeddings[others], labels[others]),
            LabelledEmbeddings.of(embeddings[rows], labels[rows]),
            classes=CLASSES,
            candidates=(0.1, 1.0),
        )
        assert of_rows[1] == of_arrays[1]
        np.testing.assert_array_equal(of_rows[0].weights, of_arrays[0].weights)


def test_the_grid_is_that_of_dinov2():
    assert len(DINOV2_C) == 45
    assert (DINOV2_C[0], DINOV2_C[24], DINOV2_C[-1]) == (1e-6, 1.0, 1e5)


class TestDegenerateInputs:
    def test_a_single_class_is_refused(self):
        embeddings, _ = clusters()
        with pytest.raises(EmbeddingError, match="of two classes or more; these 120 are of 1 class"):
            fitted_linear_probe(LabelledEmbeddings.of(embeddings, np.zeros(120)), classes=CLASSES, C=1.0)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    def test_an_embedding_that_is_not_finite_is_named(self, value):
        embeddings, labels = clusters()
        embeddings[7, 3] = value
        images = LabelledEmbeddings(embeddings, np.arange(5, 120), labels[5:])
        with pytest.raises(EmbeddingError, match="image 7 "):
            fitted_linear_probe(images, classes=CLASSES, C=1.0)

    def test_an_empty_validation_part_is_refused(self):
        embeddings, labels = clusters()
        images = LabelledEmbeddings.of(embeddings, labels)
        nothing = LabelledEmbeddings(embeddings, np.arange(0), labels[:0])
        with pytest.raises(EmbeddingError, match="no images to choose C on"):
            chosen_linear_probe(images, nothing, classes=CLASSES)

    def test_a_label_beyond_the_classes_and_rows_without_labels_are_refused(self):
        embeddings, labels = clusters()
        with pytest.raises(ShapeError, match="there are 3 classes"):
            fitted_linear_probe(LabelledEmbeddings.of(embeddings, labels), classes=3, C=1.0)
        with pytest.raises(ShapeError, match="119 classes"):
            LabelledEmbeddings.of(embeddings, labels[1:])

    def test_equal_embeddings_and_constant_dimensions_leave_the_frequencies_of_the_classes(self):
        labels = np.array([0, 0, 0, 1])
        probe = fitted_linear_probe(
            LabelledEmbeddings.of(np.ones((4, SIZE)), labels), classes=2, C=1.0, features="standard"
        )
        np.testing.assert_allclose(np.exp(probe.log_probabilities(np.ones((1, SIZE)))), [[0.75, 0.25]], atol=1e-6)

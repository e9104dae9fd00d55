from __future__ import annotations

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from fewshot_bench.embeddings import knn_probe
from fewshot_bench.embeddings.knn_probe import NEIGHBOURS, TEMPERATURES, KNNProbe, chosen_knn_probe
from fewshot_bench.embeddings.labelled_embeddings import LabelledEmbeddings, TrainingImages
from fewshot_bench.errors import EmbeddingError

CLASSES, SIZE = 4, 6


def clusters(images=150, *, spread=2.0, seed=0):
    generator = np.random.default_rng(seed)
    centers = np.random.default_rng(9).normal(size=(CLASSES, SIZE))
    labels = np.arange(images) % CLASSES
    return centers[labels] + spread * generator.normal(size=(images, SIZE)), labels


def probe_of(embeddings, labels, k, temperature=None, features="l2"):
    return KNNProbe(
        TrainingImages(LabelledEmbeddings.of(embeddings, labels), classes=CLASSES), k, temperature, features
    )


@pytest.mark.parametrize("k", [1, 2, 5, 20])
class TestAgainstScikitLearn:
    @pytest.mark.parametrize(("features", "metric"), [("l2", "cosine"), ("raw", "euclidean")])
    def test_a_majority_vote_is_the_same_with_its_ties(self, k, features, metric):
        embeddings, labels = clusters()
        tested, _ = clusters(seed=1)
        theirs = KNeighborsClassifier(k, metric=metric).fit(embeddings, labels)
        found = probe_of(embeddings, labels, k, features=features).log_probabilities(tested)
        np.testing.assert_allclose(np.exp(found), theirs.predict_proba(tested), rtol=0, atol=1e-12)
        np.testing.assert_array_equal(found.argmax(axis=1), theirs.predict(tested))

    def test_softmax_weights_are_those_of_dinov2(self, k):
        embeddings, labels = clusters()
        tested, _ = clusters(seed=1)
        theirs = KNeighborsClassifier(k, metric="cosine", weights=lambda distances: np.exp((1 - distances) / 0.07))
        expected = theirs.fit(embeddings, labels).predict_proba(tested)
        found = probe_of(embeddings, labels, k, 0.07).log_probabilities(tested)
        np.testing.assert_allclose(np.exp(found), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("at_once", [1, 7, 64])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_of_equally_near_images_the_first_are_the_neighbours_in_blocks_of_any_size(monkeypatch, at_once, dtype):
    generator = np.random.default_rng(0)
    embeddings = generator.integers(0, 2, size=(90, SIZE)).astype(dtype)  # many copies, and exact distances
    labels = np.arange(90) % CLASSES
    tested = generator.integers(0, 2, size=(40, SIZE)).astype(dtype)
    monkeypatch.setattr(knn_probe, "_IMAGES_AT_ONCE", at_once)
    found = probe_of(embeddings, labels, 5, features="raw").log_probabilities(tested)
    distances = ((tested[:, None] - embeddings[None]) ** 2).sum(axis=2)
    neighbours = labels[np.argsort(distances, axis=1, kind="stable")[:, :5]]
    expected = (neighbours[:, :, None] == np.arange(CLASSES)).mean(axis=1)
    np.testing.assert_array_equal(np.exp(found).round(9), expected)


def test_of_classes_with_equal_votes_the_first_wins():
    embeddings = np.array([[1.0, 0.0], [1.0, 0.1], [1.0, 0.2], [1.0, 0.3]])
    probe = probe_of(embeddings, np.array([3, 3, 1, 1]), 4)
    assert probe.log_probabilities(np.array([[1.0, 0.0]])).argmax() == 1


@pytest.mark.slow
def test_k_and_temperature_have_the_highest_validation_accuracy_and_the_validation_part_votes_later():
    embeddings, labels = clusters()
    held_out, truth = clusters(seed=1)
    training, validation = LabelledEmbeddings.of(embeddings, labels), LabelledEmbeddings.of(held_out, truth)
    probe, choice = chosen_knn_probe(training, validation, classes=CLASSES)
    settings = [(k, temperature) for k in NEIGHBOURS if k <= 150 for temperature in TEMPERATURES]
    accuracies = [
        float((probe_of(embeddings, labels, *setting).log_probabilities(held_out).argmax(axis=1) == truth).mean())
        for setting in settings
    ]
    assert choice.tried == tuple((*setting, found) for setting, found in zip(settings, accuracies, strict=True))
    assert (choice.k, choice.temperature) == settings[int(np.argmax(accuracies))] == (probe.k, probe.temperature)
    tested, _ = clusters(seed=2)
    together = probe_of(
        np.concatenate([embeddings, held_out]), np.concatenate([labels, truth]), choice.k, choice.temperature
    )
    np.testing.assert_allclose(probe.log_probabilities(tested), together.log_probabilities(tested), rtol=1e-12)


def test_standardised_embeddings_are_compared_by_their_distance():
    embeddings, labels = clusters()
    embeddings[:, 0] *= 100
    tested, _ = clusters(seed=1)
    tested[:, 0] *= 100
    mean, deviation = embeddings.mean(axis=0), embeddings.std(axis=0)
    theirs = KNeighborsClassifier(5).fit((embeddings - mean) / deviation, labels)
    found = probe_of(embeddings, labels, 5, features="standard").log_probabilities(tested)
    np.testing.assert_array_equal(found.argmax(axis=1), theirs.predict((tested - mean) / deviation))


class TestDegenerateInputs:
    def test_fewer_images_than_k_are_refused(self):
        embeddings, labels = clusters(8)
        with pytest.raises(EmbeddingError, match=r"k = 9 neighbours .* there are 8"):
            probe_of(embeddings, labels, 9)
        images = LabelledEmbeddings.of(embeddings, labels)
        with pytest.raises(EmbeddingError, match=r"k = 10 neighbours .* there are 8"):
            chosen_knn_probe(images, images, classes=CLASSES, neighbours=(20, 10))

    def test_a_single_class_is_refused(self):
        embeddings, labels = clusters(8)
        with pytest.raises(EmbeddingError, match="of 1 class"):
            probe_of(embeddings, labels * 0, 1)

    @pytest.mark.parametrize("where", ["training", "test"])
    def test_an_embedding_that_is_not_finite_is_named(self, where):
        embeddings, labels = clusters(8)
        broken = embeddings.copy()
        broken[3, 0] = np.nan
        learned, tested = (broken, embeddings) if where == "training" else (embeddings, broken)
        with pytest.raises(EmbeddingError, match="image 3 "):
            probe_of(learned, labels, 1).log_probabilities(tested)

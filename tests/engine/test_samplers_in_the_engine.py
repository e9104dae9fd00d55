"""Uneven queries and tasks of varied shapes through the engine: every method sees the real queries, and no more."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import toy_split

from fewshot_bench import Centroid, Protocol, compare, evaluate, sample_by_shape, sample_episodes
from fewshot_bench.adaptation import EmbeddedSplit, Finetune
from fewshot_bench.backbones import BackboneRequest, create_backbone
from fewshot_bench.engine.classify import classify
from fewshot_bench.engine.finetune import FinetuneClassifier
from fewshot_bench.errors import ComparisonError
from fewshot_bench.finetuning.episode_tasks import ImageTasks

pytestmark = pytest.mark.slow

SPLIT = toy_split()
UNEVEN = Protocol("toy", query=4, episodes=8, sampler="dirichlet", alpha=0.5)
VARIED = Protocol("toy", shot=3, query=4, episodes=40, sampler="varied")
OTHERS = [UNEVEN, VARIED, Protocol("toy", query=4, sampler="disjoint")]


def embeddings(size=6):
    generator = np.random.default_rng(0)
    centers = generator.normal(size=(len(SPLIT.class_names), size))
    return (centers[SPLIT.labels] + generator.normal(size=(len(SPLIT), size))).astype(np.float32)


def nearest_by_hand(rows, support, query):
    """Position of the nearest class centroid of one query, by cosine."""
    centroids = rows[support].mean(axis=1)
    return int(np.argmax(centroids @ rows[query] / np.linalg.norm(centroids, axis=1)))


@pytest.mark.parametrize("protocol", OTHERS, ids=lambda protocol: protocol.sampler)
def test_every_query_is_classified_among_the_classes_of_its_own_task(protocol):
    rows = embeddings()
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    outcomes = evaluate(Centroid(), embeddings(), sample_by_shape(SPLIT, protocol)).outcomes
    stored = dict(zip(outcomes.episode.tolist(), outcomes.frame["predictions"], strict=True))
    accuracy = dict(zip(outcomes.episode.tolist(), outcomes.accuracy.tolist(), strict=True))
    assert outcomes.episode.tolist() == sorted(stored)
    for group in sample_by_shape(SPLIT, protocol):
        for row, number in enumerate(group.numbers.tolist()):
            by_hand = [nearest_by_hand(rows, group.support[row], query) for query in group.queries[row]]
            assert list(stored[number]) == by_hand
            labels = SPLIT.labels[group.support[row, :, 0]]
            right = [
                labels[said] == SPLIT.labels[query] for said, query in zip(by_hand, group.queries[row], strict=True)
            ]
            assert accuracy[number] == np.mean(right)


@pytest.mark.parametrize("protocol", OTHERS, ids=lambda protocol: protocol.sampler)
@pytest.mark.parametrize("chunk", [1, 3])
def test_the_chunk_never_changes_a_prediction_of_any_sampler(protocol, chunk):
    split = EmbeddedSplit(torch.from_numpy(embeddings()), len(SPLIT)).with_features("l2")
    for group in sample_by_shape(SPLIT, protocol):
        assert (classify(Centroid(), split, group, chunk=chunk) == classify(Centroid(), split, group)).all()


def test_methods_on_varied_tasks_are_compared_and_other_settings_are_refused():
    rows, noise = embeddings(), np.random.default_rng(1).normal(size=(len(SPLIT), 6)).astype(np.float32)
    groups = sample_by_shape(SPLIT, VARIED)
    good, bad = (evaluate(Centroid(), some, groups, name=name) for some, name in ((rows, "good"), (noise, "noise")))
    assert compare(good, bad).test.p < 1e-6
    assert compare(good, bad).test.n == 40
    standard = sample_by_shape(SPLIT, Protocol("toy", shot=3, query=4, episodes=40))
    other = evaluate(Centroid(), noise, standard, name="other")
    with pytest.raises(ComparisonError, match=r"sampler differs \(varied and standard\), so no episode is the same"):
        compare(good, other)
    wider = Protocol("toy", shot=3, query=4, episodes=40, sampler="varied", least_way=3)
    with pytest.raises(ComparisonError, match="sampler settings differs"):
        compare(good, evaluate(Centroid(), noise, sample_by_shape(SPLIT, wider), name="wider"))


def finetune(**options):
    torch.manual_seed(0)
    backbone = create_backbone(BackboneRequest("conv4_32", channels=3, native_size=16))
    backbone.network.eval()
    return FinetuneClassifier.on_images(
        Finetune(**{"epochs": 2, "learning_rate": 1e-3, **options}), SPLIT, backbone, "cpu"
    )


def test_a_transductive_method_sees_the_real_queries_and_nothing_else(monkeypatch):
    seen = []
    prepare = ImageTasks.__call__

    def watched(self, support, query, keys):
        seen.extend(query.tolist())
        return prepare(self, support, query, keys)

    made = finetune(bn="transductive")
    for protocol in (UNEVEN, VARIED):
        for group in sample_by_shape(SPLIT, protocol, numbers=range(4)):
            monkeypatch.setattr(ImageTasks, "__call__", watched)
            seen.clear()
            predictions = made(group, 2)
            assert seen == [[image for row in by_class for image in row if image >= 0] for by_class in group.query]
            assert predictions.shape == group.truth.shape
            assert predictions.max() < group.way


def test_what_a_transductive_method_sees_beside_an_image_changes_what_it_says_of_it():
    """Else the test above would hold for one that looks at no statistics of the queries."""
    episodes = sample_episodes(SPLIT, Protocol("toy", query=4, episodes=30))
    images = episodes.images.copy()
    images[:, :, -2:] = images[:, :1, -1:]  # of each class two queries stay
    others = replace(episodes, images=images)
    for bn, is_changed in (("transductive", True), ("frozen", False)):
        made = finetune(bn=bn)
        before, after = (made(some, 4).reshape(30, 5, 4)[..., :2] for some in (episodes, others))
        assert (before != after).any() == is_changed


@pytest.mark.parametrize("protocol", [UNEVEN, VARIED], ids=lambda protocol: protocol.sampler)
def test_fine_tuning_an_episode_is_the_same_whichever_others_are_asked_for(protocol):
    made = finetune(loss="ce+schane", tune="last:1")

    def predictions(numbers):
        groups = sample_by_shape(SPLIT, protocol, numbers=numbers)
        return {
            int(number): row.tolist()
            for group in groups
            for number, row in zip(group.numbers, made(group, 4), strict=True)
        }

    whole = predictions(range(6))
    assert predictions([4, 1]) == {number: whole[number] for number in (1, 4)}
    assert len(whole) == 6

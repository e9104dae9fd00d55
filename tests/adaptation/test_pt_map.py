"""PT-MAP against the algorithm written out for one episode, and against easyfsl."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from fewshot_bench.adaptation import PTMAP, EmbeddedSplit, map_assignment
from fewshot_bench.adaptation.transductive.episode_products import centered_products
from fewshot_bench.errors import EmbeddingError, ShapeError, StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

CENTERINGS = ["separate", "joint", "none"]


def positive_split(**settings) -> EmbeddedSplit:
    """Embeddings as after a ReLU, in float64."""
    split = clustered_split(spread=2.5, **settings)
    return replace(split, embeddings=split.embeddings.relu().double())


SPLIT = positive_split()


def written_out(support, query, *, alpha, centering, regularization=10.0, steps=20):
    """The algorithm for one episode, on whole embeddings; the plan, [M, N]."""
    way, shot, _ = support.shape
    embeddings = np.concatenate([support.reshape(way * shot, -1), query])
    features = np.sqrt(embeddings + 1e-6)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    groups = {"separate": [slice(0, way * shot), slice(way * shot, None)], "joint": [slice(None)], "none": []}
    for group in groups[centering]:
        features[group] -= features[group].mean(0)
        features[group] /= np.linalg.norm(features[group], axis=1, keepdims=True)
    labelled, queries = features[: way * shot], features[way * shot :]
    truth = np.repeat(np.eye(way), shot, axis=0)
    centres = truth.T @ labelled / shot
    for step in range(steps + 1):
        costs = np.square(queries[:, None] - centres[None]).sum(2)
        plan = np.exp(-regularization * costs)
        plan /= plan.sum()
        before = np.zeros(len(queries))
        for _ in range(1000):
            if np.abs(before - plan.sum(1)).max() <= 1e-6:
                break
            before = plan.sum(1)
            plan *= (1 / before)[:, None]
            plan *= (len(queries) / way / plan.sum(0))[None]
        if step < steps:
            shares = np.concatenate([truth, plan])
            centres += alpha * (shares.T @ features / shares.sum(0)[:, None] - centres)
    return plan


def both(adaptation, *, alpha, shot, count=40, **settings):
    support, query = support_and_query(drawn_episodes(count, shot=shot, **settings))
    scores = adaptation.scores(SPLIT.with_features("power"), support, query)
    raw = SPLIT.embeddings.numpy()
    expected = [
        written_out(raw[some], raw[others], alpha=alpha, centering=adaptation.centering)
        for some, others in zip(support.numpy(), query.numpy(), strict=True)
    ]
    return scores.numpy(), np.stack(expected)


@pytest.mark.slow
@pytest.mark.parametrize("centering", CENTERINGS)
@pytest.mark.parametrize(("shot", "alpha"), [(1, 0.2), (5, 0.4)])
def test_every_prediction_is_that_of_the_algorithm_written_out(shot, alpha, centering):
    scores, expected = both(PTMAP(centering=centering), shot=shot, alpha=alpha)
    # Sinkhorn's iteration stops when a step changes a row by less than 1e-6, a little before its limit.
    np.testing.assert_allclose(scores, expected, atol=2e-3)
    assert (scores.argmax(2) == expected.argmax(2)).all()


@pytest.mark.slow
@pytest.mark.parametrize("shot", [1, 5])
def test_every_prediction_is_that_of_easyfsl(shot):
    methods = pytest.importorskip("easyfsl.methods")
    # easyfsl neither normalises nor centres; it adds 1e-6 to all that it is given, which moves no distance.
    theirs = methods.PTMAP(fine_tuning_steps=20, fine_tuning_lr=0.4, power_factor=1.0, backbone=torch.nn.Identity())
    split = SPLIT.with_features("power")
    support, query = support_and_query(drawn_episodes(40, shot=shot, query=4))
    scores = PTMAP(alpha=0.4, centering="none").scores(split, support, query)
    for found, some, others in zip(scores, support, query, strict=True):
        theirs.process_support_set(split.embeddings[some.flatten()], torch.arange(5).repeat_interleave(shot))
        expected = theirs(split.embeddings[others])
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-3)
        assert torch.equal(found.argmax(1), expected.argmax(1))


def test_every_class_receives_as_many_queries_unless_it_is_told_otherwise():
    support, query = support_and_query(drawn_episodes(20, shot=2))
    few = query[:, :17]  # 6, 6 and 5 queries of three classes, and none of two
    split = SPLIT.with_features("power")
    torch.testing.assert_close(
        PTMAP().scores(split, support, few).sum(1), torch.full((20, 5), 3.4).double(), rtol=1e-5, atol=0
    )
    shares = PTMAP(balanced=False, centering="none").scores(split, support, few).sum(1)
    assert ((shares - 3.4).abs().amax(1) > 0.5).all()
    assert PTMAP().assumes_balanced_queries
    assert not PTMAP(balanced=False).assumes_balanced_queries


def test_one_query_alone_goes_to_the_class_it_looks_like():
    support, query = support_and_query(drawn_episodes(30, shot=5))
    split = SPLIT.with_features("power")
    for centering in CENTERINGS:
        alone = PTMAP(centering=centering).scores(split, support, query[:, 13:14])
        torch.testing.assert_close(alone, torch.full_like(alone, 0.2), rtol=0, atol=1e-4)
        assert (alone.argmax(2) == 2).double().mean() > 0.4  # one in five by chance


def test_without_a_step_and_without_balance_the_nearest_centroid_wins():
    support, query = support_and_query(drawn_episodes(20, shot=3))
    split = SPLIT.with_features("power")
    scores = PTMAP(steps=0, balanced=False, centering="none").scores(split, support, query)
    centroids = split.embeddings[support].mean(2)
    nearest = torch.cdist(split.embeddings[query], centroids).argmin(2)
    assert torch.equal(scores.argmax(2), nearest)


def test_the_power_transform_is_the_default_and_refuses_negative_embeddings():
    assert PTMAP().features == "power"
    with pytest.raises(EmbeddingError, match="signed-power"):
        clustered_split().with_features(PTMAP().features)


@pytest.mark.parametrize("centering", CENTERINGS)
def test_centred_products_are_those_of_centred_embeddings(centering):
    embeddings = torch.randn(3, 9, 6, dtype=torch.float64) + 2
    found = centered_products(embeddings @ embeddings.transpose(1, 2), 4, centering)
    for group in {"separate": [slice(0, 4), slice(4, 9)], "joint": [slice(0, 9)], "none": []}[centering]:
        some = embeddings[:, group] - embeddings[:, group].mean(1, keepdim=True)
        embeddings[:, group] = some / some.norm(dim=2, keepdim=True)
    torch.testing.assert_close(found, embeddings @ embeddings.transpose(1, 2))


def test_an_image_that_is_its_own_centre_is_at_no_angle_to_any():
    products = torch.full((1, 4, 4), 0.3) + 1e-8 * torch.randn(1, 4, 4)
    assert (centered_products(products, 2, "joint") == 0).all()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"regularization": 0.0}, "regularization of pt-map should be positive"),
        ({"alpha": 0.0}, "alpha of pt-map should be above 0"),
        ({"alpha": 1.5}, "alpha of pt-map should be above 0 and at most 1"),
        ({"steps": -1}, "steps of pt-map should be a whole number"),
        ({"centering": "median"}, "centering of pt-map should be one of separate, joint, none"),
        ({"features": "root"}, "features of pt-map should be one of"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(settings, said):
    with pytest.raises(StudyError, match=said):
        PTMAP(**settings)


def test_products_without_a_query_are_refused():
    with pytest.raises(ShapeError, match="6 support images and some queries"):
        map_assignment(torch.zeros(1, 6, 6), way=3, shot=2)

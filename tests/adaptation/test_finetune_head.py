from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from fewshot_bench.adaptation import EmbeddedSplit, FinetuneHead
from fewshot_bench.errors import EmbeddingError, StudyError, UnknownNameError
from fewshot_bench.losses import schane
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

EPISODES = 3


def one_episode(settings, split, support, query):
    """What a loop over episodes does: one head, one torch.optim.Adam."""
    way, shot = support.shape
    plain = support.flatten()
    views = range(1, settings.augmented_views + 1) if settings.augmented_views else [0]
    features = split.embeddings[torch.cat([plain + view * split.images for view in views])]
    labels = torch.arange(way).repeat_interleave(shot).repeat(len(views))
    centroids = split.embeddings[support].mean(dim=1)
    weights = (centroids if settings.start == "centroid" else torch.zeros_like(centroids)).clone().requires_grad_()
    bias = torch.zeros(way, requires_grad=True)
    projection = torch.eye(features.shape[1], requires_grad=True)

    def head(rows):
        if settings.head == "cosine":
            return rows, settings.scale * normalize(rows, dim=1) @ normalize(weights, dim=1).T
        projected = rows @ projection if settings.head == "projection" else rows
        return projected, projected @ weights.T + bias

    used = {"linear": [weights, bias], "cosine": [weights], "projection": [weights, bias, projection]}[settings.head]
    adam = torch.optim.Adam(used, lr=settings.learning_rate, weight_decay=settings.weight_decay)
    for _ in range(settings.steps):
        projected, logits = head(features)
        loss = cross_entropy(logits, labels)
        if settings.loss == "ce+schane":
            contrasted = projected if settings.head == "projection" else logits
            term = schane(contrasted, labels, tau=settings.tau, reading=settings.reading or "in")
            loss = (1 - settings.lambda_) * loss + settings.lambda_ * term
        adam.zero_grad()
        loss.backward()
        adam.step()
    return head(split.embeddings[query])[1].detach()


@pytest.mark.slow
@pytest.mark.parametrize("shot", [1, 5])
@pytest.mark.parametrize(
    "settings",
    [
        FinetuneHead(coordinates="full", steps=20),
        FinetuneHead(coordinates="full", steps=20, start="zero", weight_decay=0.05),
        FinetuneHead(coordinates="full", steps=20, features="raw", learning_rate=1e-3),
        FinetuneHead(coordinates="full", steps=20, head="cosine"),
        FinetuneHead(coordinates="full", steps=20, head="cosine", features="raw", scale=5.0),
        FinetuneHead(coordinates="full", steps=20, head="projection", learning_rate=1e-3),
        FinetuneHead(coordinates="full", steps=20, loss="ce+schane"),
        FinetuneHead(coordinates="full", steps=20, loss="ce+schane", head="cosine", lambda_=0.5, tau=0.1),
        FinetuneHead(coordinates="full", steps=20, loss="ce+schane", head="projection", learning_rate=1e-3),
    ],
    ids=lambda settings: f"{settings.head}-{settings.loss}-{settings.features}-{settings.start}",
)
def test_all_episodes_at_once_go_where_each_goes_alone(settings, shot):
    split = clustered_split(views=settings.augmented_views).with_features(settings.features)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    expected = torch.stack([one_episode(settings, split, support[i], query[i]) for i in range(EPISODES)])
    scores = settings.scores(split, support, query)
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    assert torch.equal(scores.argmax(-1), expected.argmax(-1))


def easyfsl_finetune(support, labels, query, *, steps=200, learning_rate=1e-4):
    """easyfsl 1.5, methods/finetune.py, with the backbone taken out."""
    prototypes = torch.stack([support[labels == label].mean(0) for label in labels.unique()])

    def cosine_distance_to_prototypes(samples):
        return normalize(samples, dim=1) @ normalize(prototypes, dim=1).T

    prototypes.requires_grad_()
    optimizer = torch.optim.Adam([prototypes], lr=learning_rate)
    for _ in range(steps):
        loss = cross_entropy(1.0 * cosine_distance_to_prototypes(support), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return cosine_distance_to_prototypes(query).detach()


@pytest.mark.slow
@pytest.mark.parametrize("features", ["raw", "l2"])
@pytest.mark.parametrize("shot", [1, 5])
def test_a_cosine_head_of_scale_one_is_easyfsl_finetune(features, shot):
    settings = FinetuneHead(
        head="cosine", start="centroid", scale=1.0, steps=200, learning_rate=1e-4, coordinates="full", features=features
    )
    split = clustered_split().with_features(features)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    labels = torch.arange(5).repeat_interleave(shot)
    rows = split.embeddings
    expected = torch.stack(
        [easyfsl_finetune(rows[support[i].flatten()], labels, rows[query[i]]) for i in range(EPISODES)]
    )
    scores = settings.scores(split, support, query)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    assert torch.equal(scores.argmax(-1), expected.argmax(-1))


def support_loss(scores, shot):
    labels = torch.arange(5).repeat_interleave(shot).expand(len(scores), -1)
    return cross_entropy(scores.transpose(1, 2), labels, reduction="none").mean(1)


@pytest.mark.slow
@pytest.mark.parametrize("coordinates", ["span", "full"])
@pytest.mark.parametrize("head", ["linear", "cosine", "projection"])
def test_training_lowers_the_support_loss_of_every_episode(head, coordinates):
    split = clustered_split().with_features("l2")
    support, _ = support_and_query(drawn_episodes(EPISODES, shot=5))
    settings = {"head": head, "coordinates": coordinates, "learning_rate": 1e-3}
    losses = [
        support_loss(FinetuneHead(steps=steps, **settings).scores(split, support, support.flatten(1)), 5)
        for steps in (1, 10, 40)
    ]
    assert (losses[1] < losses[0]).all()
    assert (losses[2] < losses[1]).all()


@pytest.mark.parametrize("head", ["linear", "cosine", "projection"])
def test_span_coordinates_start_where_full_ones_start(head):
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=3))
    span, full = (
        FinetuneHead(coordinates=coordinates, head=head, steps=1, learning_rate=1e-9).scores(split, support, query)
        for coordinates in ("span", "full")
    )
    torch.testing.assert_close(span, full, rtol=1e-4, atol=1e-4)


def test_span_coordinates_take_images_that_occur_twice():
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=3))
    support[:, :, 1] = support[:, :, 0]
    scores = FinetuneHead(steps=20).scores(split, support, query)
    assert torch.isfinite(scores).all()
    assert (scores.argmax(-1) == torch.arange(5).repeat_interleave(6)).float().mean() > 0.5


def test_more_images_than_dimensions_are_trained_on():
    split = clustered_split(size=6).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=5))
    settings = {"steps": 1, "learning_rate": 1e-9}
    span, full = (
        FinetuneHead(coordinates=coordinates, **settings).scores(split, support, query)
        for coordinates in ("span", "full")
    )
    torch.testing.assert_close(span, full, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("loss", "views"), [("ce", 0), ("ce+schane", 2)])
def test_only_a_contrastive_loss_asks_for_two_views(loss, views):
    assert FinetuneHead(loss=loss).augmented_views == views
    assert FinetuneHead(loss=loss).stage == f"episode-{loss}"


@pytest.mark.parametrize("coordinates", ["span", "full"])
@pytest.mark.parametrize("view", [1, 2])
def test_a_contrastive_loss_reads_every_view(view, coordinates):
    settings = FinetuneHead(loss="ce+schane", steps=10, coordinates=coordinates)
    split = clustered_split(views=2).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=2))
    rows = split.embeddings.clone()
    some = slice(view * split.images, (view + 1) * split.images)
    rows[some] = normalize(rows[some] + 0.1 * torch.randn(rows[some].shape), dim=1)
    other = EmbeddedSplit(rows, split.images)
    change = settings.scores(other, support, query) - settings.scores(split, support, query)
    assert (change.abs().amax((1, 2)) > 1e-3).all()


def test_cross_entropy_pays_no_attention_to_views():
    split = clustered_split(views=2).with_features("l2")
    without = EmbeddedSplit(split.embeddings[: split.images], split.images)
    support, query = support_and_query(drawn_episodes(EPISODES))
    settings = FinetuneHead(steps=10)
    assert torch.equal(settings.scores(split, support, query), settings.scores(without, support, query))


@pytest.mark.parametrize("views", [0, 1])
def test_a_contrastive_loss_without_two_views_is_refused(views):
    support, query = support_and_query(drawn_episodes(2))
    with pytest.raises(EmbeddingError, match=rf"episode-ce\+schane needs 2 augmented views; there are {views}"):
        FinetuneHead(loss="ce+schane").scores(clustered_split(views=views), support, query)


@pytest.mark.parametrize("head", ["linear", "cosine", "projection"])
def test_one_shot_with_two_views_has_a_contrastive_gradient(head):
    """With lambda 1 nothing but the contrastive term can move the head from where it starts."""
    split = clustered_split(views=2).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=1))
    settings = {"head": head, "loss": "ce+schane", "lambda_": 1.0, "coordinates": "full"}
    still = FinetuneHead(steps=1, learning_rate=1e-12, **settings).scores(split, support, query)
    moved = FinetuneHead(steps=20, **settings).scores(split, support, query)
    assert ((moved - still).abs().amax((1, 2)) > 1e-2).all()


def test_lambda_zero_is_cross_entropy_on_the_views():
    split = clustered_split(views=2).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=2))
    both_views = torch.cat([support + split.images, support + 2 * split.images], dim=2)
    settings = {"steps": 60, "coordinates": "full", "start": "zero"}
    expected = FinetuneHead(**settings).scores(split, both_views, query)
    scores = FinetuneHead(loss="ce+schane", lambda_=0.0, **settings).scores(split, support, query)
    assert expected.abs().max() > 1
    # From zero the bias has no gradient but rounding errors, which Adam's first steps make as large as any other.
    torch.testing.assert_close(scores, expected, rtol=0, atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    "setting", [{"tau": 0.1}, {"reading": "out"}, {"lambda_": 0.5}, {"stop_gradient": "beta"}, {"anchors": "sum"}]
)
def test_every_setting_of_the_contrastive_term_reaches_it(setting):
    split = clustered_split(views=2).with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES, shot=2))
    base = {"loss": "ce+schane", "steps": 20, "head": "projection"}
    default = FinetuneHead(**base).scores(split, support, query)
    assert not torch.allclose(FinetuneHead(**base, **setting).scores(split, support, query), default, atol=1e-4)


def test_settings_of_the_contrastive_term_are_no_hyper_parameters_of_cross_entropy():
    contrastive = {"lambda_", "tau", "reading"}
    assert contrastive.isdisjoint(FinetuneHead().hyper_parameters())
    assert contrastive <= FinetuneHead(loss="ce+schane").hyper_parameters().keys()


def test_it_trains_where_gradients_are_switched_off():
    split = clustered_split().with_features("l2")
    support, query = support_and_query(drawn_episodes(EPISODES))
    expected = FinetuneHead(steps=20).scores(split, support, query)
    with torch.no_grad():
        scores = FinetuneHead(steps=20).scores(split, support, query)
    assert torch.equal(scores, expected)
    assert not expected.requires_grad


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"head": "deep"}, "head of finetune-head should be one of linear, cosine, projection, not deep"),
        ({"start": "random"}, "start of finetune-head should be one of centroid, zero, not random"),
        ({"coordinates": "polar"}, "coordinates of finetune-head should be one of span, full, not polar"),
        ({"reading": "between"}, "reading of finetune-head should be one of in, out, not between"),
        ({"steps": 0}, "steps of finetune-head should be a whole number of 1 or more"),
        ({"steps": 1.5}, "steps of finetune-head should be a whole number of 1 or more"),
        ({"learning_rate": 0}, "learning_rate of finetune-head should be positive"),
        ({"learning_rate": math.nan}, "learning_rate of finetune-head should be positive"),
        ({"weight_decay": -0.1}, "weight_decay of finetune-head should be 0 or more"),
        ({"lambda_": 1.1}, "lambda of finetune-head should be between 0 and 1"),
        ({"tau": 0.0}, "tau of finetune-head should be positive"),
        ({"head": "cosine", "start": "zero"}, "start of finetune-head should be centroid for a cosine head"),
        ({"features": "l3"}, "features of finetune-head should be one of raw, l2, cl2, power, signed-power, not l3"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(StudyError, match=message):
        FinetuneHead(**setting)


def test_an_unknown_loss_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"there is no loss called 'ce\+shane'. Did you mean ce\+schane"):
        FinetuneHead(loss="ce+shane")

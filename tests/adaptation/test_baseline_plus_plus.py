from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from fewshot_bench.adaptation import BaselinePlusPlus, Centroid, EmbeddedSplit
from fewshot_bench.errors import StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

EPISODES = 2


class CosineHead(nn.Module):
    """Equation and code of Chen et al. (2019): cosines times a scale, and times a learned norm in the code."""

    def __init__(self, weights, scale, is_learned):
        super().__init__()
        self.weights, self.scale = nn.Parameter(weights.clone()), scale
        self.norms = nn.Parameter(weights.norm(dim=1)) if is_learned else torch.ones(len(weights)).double()

    def forward(self, images):
        cosines = nn.functional.cosine_similarity(images.unsqueeze(1), self.weights.unsqueeze(0), dim=2)
        return self.scale * self.norms * cosines


def trained_alone(adaptation, embeddings, support, queries, direction):
    """One episode in all D coordinates, in float64, with PyTorch's SGD and autograd: logits [M, N]."""
    embeddings = nn.functional.normalize(embeddings.double(), dim=1)
    along = embeddings @ direction.double()
    classes = sorted(range(len(support)), key=lambda way: float(along[support[way]].mean()))
    labelled = [(int(image), rank) for rank, way in enumerate(classes) for image in support[way]]
    labelled.sort(key=lambda pair: float(along[pair[0]]))
    images = embeddings[[image for image, _ in labelled]]
    labels = torch.tensor([rank for _, rank in labelled])
    first = adaptation.first_weights(len(support), embeddings.shape[1]).double()
    head = CosineHead(first, adaptation.scale, adaptation.class_norms == "learned")
    optimiser = torch.optim.SGD(
        head.parameters(),
        lr=adaptation.learning_rate,
        momentum=adaptation.momentum,
        dampening=adaptation.dampening,
        weight_decay=adaptation.weight_decay,
    )
    for batch in adaptation.batches(len(images)):
        optimiser.zero_grad()
        nn.functional.cross_entropy(head(images[batch]), labels[batch]).backward()
        optimiser.step()
    logits = torch.empty(len(queries), len(support), dtype=torch.float64)
    logits[:, classes] = head(embeddings[queries]).detach()
    return logits


@pytest.mark.parametrize("class_norms", ["fixed", "learned"])
@pytest.mark.parametrize(
    ("size", "shot", "settings"),
    [
        (40, 1, {"epochs": 30}),
        (40, 5, {"epochs": 8, "seed": 3}),
        (3, 5, {"epochs": 5, "learning_rate": 0.3}),
        (400, 2, {"epochs": 8, "scale": 8.0, "momentum": 0.5, "dampening": 0.2, "weight_decay": 0.1}),
        (40, 2, {"epochs": 10, "batch_size": 100, "dampening": 0.0}),
    ],
)
def test_every_episode_goes_where_sgd_would_take_it_alone(class_norms, size, shot, settings):
    adaptation = BaselinePlusPlus(class_norms=class_norms, **settings)
    split = clustered_split(size=size)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    scores = adaptation.scores(split, support, query)
    direction = adaptation._direction(size)
    for episode in range(EPISODES):
        alone = trained_alone(adaptation, split.embeddings, support[episode], query[episode], direction)
        torch.testing.assert_close(scores[episode], alone, rtol=0, atol=1e-5 * float(alone.abs().max()))
        assert torch.equal(scores[episode].argmax(-1), alone.argmax(-1))


def test_the_recipe_is_that_of_the_paper():
    adaptation = BaselinePlusPlus()
    assert (adaptation.scale, adaptation.epochs, adaptation.batch_size) == (2.0, 100, 4)
    assert (adaptation.learning_rate, adaptation.momentum, adaptation.dampening) == (0.01, 0.9, 0.9)
    assert adaptation.weight_decay == 0.001


def test_an_epoch_takes_every_image_once_and_orders_differ():
    batches = BaselinePlusPlus(epochs=2).batches(25)
    assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 4, 1] * 2
    first, second = torch.cat(batches[:7]), torch.cat(batches[7:])
    assert first.sort().values.tolist() == second.sort().values.tolist() == list(range(25))
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat(BaselinePlusPlus(epochs=1, seed=1).batches(25)))


def test_first_weights_are_uniform_within_the_bounds_of_a_linear_layer_and_depend_on_the_seed():
    weights = BaselinePlusPlus().first_weights(5, 1280)
    bound = 1280**-0.5
    assert float(weights.abs().max()) <= bound
    assert float(weights.std()) == pytest.approx(bound / 3**0.5, rel=0.05)
    assert abs(float(weights.mean())) < 0.05 * bound
    assert not torch.equal(weights, BaselinePlusPlus(seed=1).first_weights(5, 1280))


def test_another_seed_gives_other_scores():
    split = clustered_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=2))
    scores = [BaselinePlusPlus(epochs=10, seed=seed).scores(split, support, query) for seed in (0, 0, 1)]
    assert torch.equal(scores[0], scores[1])
    assert float((scores[0] - scores[2]).abs().max()) > 1e-2


def test_cosines_do_not_depend_on_the_norms_of_embeddings():
    split = clustered_split()
    lengths = torch.linspace(0.1, 10, split.images).unsqueeze(1)
    stretched = EmbeddedSplit(split.embeddings * lengths, split.images)
    support, query = support_and_query(drawn_episodes(EPISODES, shot=3))
    adaptation = BaselinePlusPlus(epochs=10)
    scores, others = (adaptation.scores(some, support, query) for some in (split, stretched))
    torch.testing.assert_close(others, scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("class_norms", ["fixed", "learned"])
def test_trained_heads_are_about_as_good_as_centroids(class_norms):
    split = clustered_split(size=200).with_features("l2")
    support, query = support_and_query(drawn_episodes(30, shot=2))
    truth = torch.arange(5).repeat_interleave(6)
    scores = BaselinePlusPlus(class_norms=class_norms).scores(split, support, query)
    nearest = Centroid().scores(split, support, query)
    right, of_nearest = (float((some.argmax(-1) == truth).float().mean()) for some in (scores, nearest))
    assert right > of_nearest - 0.1


def test_the_image_numbers_never_matter():
    split = clustered_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=3))
    order = torch.randperm(split.images, generator=torch.Generator().manual_seed(0))
    new = order.argsort()
    moved = replace(split, embeddings=split.embeddings[order])
    adaptation = BaselinePlusPlus(epochs=10)
    torch.testing.assert_close(
        adaptation.scores(moved, new[support], new[query]), adaptation.scores(split, support, query), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"scale": 0}, r"scale of baseline\+\+ should be positive, not 0"),
        ({"epochs": 0}, r"epochs of baseline\+\+ should be a whole number of 1 or more, not 0"),
        ({"batch_size": 2.5}, r"batch_size of baseline\+\+ should be a whole number of 1 or more, not 2.5"),
        ({"learning_rate": -1}, r"learning_rate of baseline\+\+ should be positive, not -1"),
        ({"momentum": 1}, r"momentum of baseline\+\+ should be at least 0 and less than 1, not 1"),
        ({"dampening": 2}, r"dampening of baseline\+\+ should be between 0 and 1, not 2"),
        ({"weight_decay": -0.1}, r"weight_decay of baseline\+\+ should be 0 or more, not -0.1"),
        ({"class_norms": "none"}, r"class_norms of baseline\+\+ should be one of fixed, learned, not none"),
    ],
)
def test_values_out_of_range_are_refused_in_one_line(settings, told):
    with pytest.raises(StudyError, match=told):
        BaselinePlusPlus(**settings)

"""iLPC against the algorithm written out for one episode, and what each of its steps does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import scipy.sparse
import torch

from fewshot_bench.adaptation import ILPC, EmbeddedSplit
from fewshot_bench.adaptation.transductive.ilpc import cleanest, mean_training_losses, propagation
from fewshot_bench.errors import StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query


def positive_split(**settings) -> EmbeddedSplit:
    """Embeddings as after a ReLU, in float64."""
    split = clustered_split(spread=2.5, **settings)
    return replace(split, embeddings=split.embeddings.relu().double())


SPLIT = positive_split()


def spread(features, labels, *, neighbours, alpha):
    """Label propagation over a sparse graph, solved directly, [B, N]."""
    cosines = features @ features.T
    np.fill_diagonal(cosines, -np.inf)
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
    rows = np.repeat(np.arange(len(features)), neighbours)
    weights = np.clip(cosines[rows, nearest.ravel()], 0, None) ** 3
    graph = scipy.sparse.csr_matrix((weights, (rows, nearest.ravel())), shape=cosines.shape)
    graph = graph + graph.T
    degrees = np.asarray(graph.sum(1)).ravel()
    degrees[degrees == 0] = 1
    scaling = scipy.sparse.diags(1 / np.sqrt(degrees))
    system = np.eye(len(features)) - alpha * (scaling @ graph @ scaling).toarray()
    return np.clip(np.linalg.solve(system, labels), 0, None)


def balanced(probabilities, totals):
    """Sinkhorn's iteration as it is usually written."""
    plan, before = probabilities.copy(), np.zeros(len(probabilities))
    for _ in range(1000):
        if np.abs(before - plan.sum(1)).max() <= 1e-6:
            break
        before = plan.sum(1)
        plan *= (1 / before)[:, None]
        plan *= np.divide(totals, plan.sum(0), out=np.zeros_like(totals), where=totals > 0)[None]
    return plan


def trained(features, labels, known, way, steps):
    """A linear layer that starts at the class means and learns by torch's SGD; the mean loss of each image."""
    features, labels = torch.from_numpy(features), torch.from_numpy(labels)
    layer = torch.nn.Linear(features.shape[1], way).double()
    means = torch.stack([features[known & (labels == number)].mean(0) for number in range(way)])
    layer.weight.data, layer.bias.data = torch.nn.functional.normalize(means), torch.zeros(way).double()
    descent = torch.optim.SGD(layer.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    total = torch.zeros(len(labels), dtype=torch.float64)
    for _ in range(steps):
        losses = torch.nn.functional.cross_entropy(layer(features), labels, reduction="none")
        descent.zero_grad()
        losses.mean().backward()
        descent.step()
        total += losses.detach() / steps
    return total.numpy()


def written_out(support, query, *, neighbours=20, alpha=0.8, power=3, selected=3, steps=1000):
    """The authors' loop for one episode, on whole embeddings: images join the labelled ones, [M]."""
    way, shot, _ = support.shape
    features = np.sqrt(np.concatenate([support.reshape(way * shot, -1), query]) + 1e-6)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    features -= features.mean(0)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    labels = np.concatenate([np.repeat(np.arange(way), shot), np.full(len(query), -1)])
    left = np.full(way, len(query) / way)
    while (labels < 0).any():
        known, unknown = labels >= 0, np.flatnonzero(labels < 0)
        propagated = spread(features, np.eye(way)[labels] * known[:, None], neighbours=neighbours, alpha=alpha)
        probabilities = propagated[unknown] / propagated[unknown].sum(1, keepdims=True)
        pseudo = labels.copy()
        # One query alone gets the totals whatever it looks like; what it looks like decides such ties.
        open_classes = probabilities**power * (left > 0)
        ties = open_classes / open_classes.sum(1, keepdims=True)
        pseudo[unknown] = (balanced(probabilities**power, left) + 1e-5 * ties).argmax(1)
        losses = trained(features, pseudo, torch.from_numpy(known), way, steps)
        chosen = []
        for number in range(way):
            own = unknown[pseudo[unknown] == number]
            chosen.extend(own[np.argsort(losses[own], kind="stable")[:selected]])
        if len(chosen) < way:
            return pseudo[way * shot :]
        labels[chosen] = pseudo[chosen]
        left = left - np.bincount(labels[chosen], minlength=way)
        left = np.clip(left, 0, None) * (labels < 0).sum() / max(np.clip(left, 0, None).sum(), 1e-300)
    return labels[way * shot :]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shot", "count", "settings"),
    [
        (1, 8, {"steps": 60}),
        (5, 5, {"steps": 60}),
        (1, 1, {"steps": 1000}),
        (2, 6, {"steps": 30, "neighbours": 7, "alpha": 0.5, "power": 1, "selected": 1}),
    ],
)
def test_every_prediction_is_that_of_the_algorithm_written_out(shot, count, settings):
    support, query = support_and_query(drawn_episodes(count, shot=shot, query=8))
    named = {"cleaning_steps" if name == "steps" else name: value for name, value in settings.items()}
    predictions = ILPC(**named).scores(SPLIT.with_features("power"), support, query).argmax(2)
    raw = SPLIT.embeddings.numpy()
    for found, some, others in zip(predictions.numpy(), support.numpy(), query.numpy(), strict=True):
        expected = written_out(raw[some], raw[others], **settings)
        assert (found == expected).all()


def noisy_training(shot=2, count=6, wrong=8):
    """Unit embeddings of episodes, the labelled images, and targets of which some are wrong; both [E, N, B]."""
    support, query = support_and_query(drawn_episodes(count, shot=shot))
    images = torch.cat([support.flatten(1), query], dim=1)
    rows = SPLIT.with_features("power").embeddings[images]
    rows = torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=2)
    truth = torch.cat([torch.arange(5).repeat_interleave(shot), torch.arange(5).repeat_interleave(6)])
    truth = truth.repeat(count, 1)
    truth[:, -wrong:] = 0
    targets = torch.nn.functional.one_hot(truth, 5).transpose(1, 2).double()
    labels = targets.clone()
    labels[:, :, 5 * shot :] = 0
    return rows, labels, targets


@pytest.mark.slow
@pytest.mark.parametrize("stride", [1, 128])
@pytest.mark.parametrize("steps", [1, 2, 3, 60, 400])
def test_losses_are_those_of_every_step_of_gradient_descent(steps, stride):
    rows, labels, targets = noisy_training(count=3)
    found = mean_training_losses(rows @ rows.transpose(1, 2), labels, targets, steps=steps, stride=stride)
    for episode, known in enumerate(labels.sum(1) > 0):
        expected = trained(rows[episode].numpy(), targets[episode].argmax(0).numpy(), known, 5, steps)
        # Those taken together are right to a thousandth of a loss of about one.
        np.testing.assert_allclose(found[episode], expected, rtol=0, atol=1e-9 if stride == 1 else 1e-3)


def test_alike_images_train_without_running_away():
    rows = torch.ones(2, 12, 4) + 0.05 * torch.randn(2, 12, 4, generator=torch.Generator().manual_seed(0))
    rows = torch.nn.functional.normalize(rows, dim=2)
    targets = torch.eye(3).repeat(1, 4).expand(2, -1, -1)
    losses = mean_training_losses(rows @ rows.transpose(1, 2), targets, targets, steps=1000)
    assert (losses.mean(1) < 1.15).all()  # log 3 is 1.10: nothing can be told apart, and nothing is made worse


def test_a_wrong_label_is_learnt_last():
    rows, labels, targets = noisy_training(wrong=2)
    losses = mean_training_losses(rows @ rows.transpose(1, 2), labels, targets, steps=1000)
    assert losses[:, -2:].mean() > 1.5 * losses[:, 10:-2].mean()


def test_the_cleanest_of_each_class_are_chosen_and_equals_together():
    losses = torch.tensor([[0.3, 0.1, 0.2, 0.5, 0.4, 0.4, 0.9]])
    pseudo = torch.zeros(1, 3, 7, dtype=torch.bool)
    pseudo[0, 0, :3] = True
    pseudo[0, 1, 3:6] = True
    chosen = cleanest(losses, pseudo, 2)
    assert chosen.tolist() == [[False, True, True, False, True, True, False]]
    assert cleanest(losses, pseudo, 1).tolist() == [[False, True, False, False, True, True, False]]


def test_images_as_near_as_the_last_neighbour_are_neighbours_too():
    rows = torch.eye(4).double()[[0, 0, 0, 1, 1, 2]]
    spreading = propagation(rows @ rows.T.unsqueeze(0), neighbours=1, alpha=0.5)[0]
    assert (spreading[:3, :3] > 0).all()
    assert (spreading[3:5, 3:5] > 0).all()
    assert (spreading[:3, 3:] == 0).all()
    torch.testing.assert_close(spreading[5], torch.eye(6).double()[5])  # alike to none: no neighbours


def test_identical_queries_of_different_classes_get_the_same_label():
    support, query = support_and_query(drawn_episodes(6, shot=2))
    alike = query[:, [0, 6, 12, 18, 24]]
    for episode in range(6):
        own = SPLIT.embeddings.clone()
        own[alike[episode]] = own[alike[episode, 0]].clone()
        split = EmbeddedSplit(own, SPLIT.images).with_features("power")
        scores = ILPC(cleaning_steps=100).scores(split, support[episode : episode + 1], query[episode : episode + 1])
        labels = scores[0, [0, 6, 12, 18, 24]].argmax(1)
        assert (labels == labels[0]).all()


def test_every_class_receives_about_as_many_queries_unless_it_is_told_otherwise():
    support, query = support_and_query(drawn_episodes(20, shot=5))
    few = query[:, :18]  # all queries are of three of the five classes
    split = SPLIT.with_features("power")
    counts = [
        torch.nn.functional.one_hot(adaptation.scores(split, support, few).argmax(2), 5).sum(1)
        for adaptation in (ILPC(cleaning_steps=50), ILPC(cleaning_steps=50, balanced=False))
    ]
    assert (counts[0] >= 1).all()
    assert counts[1][:, 3:].sum() < 0.8 * counts[0][:, 3:].sum()
    assert ILPC().assumes_balanced_queries
    assert not ILPC(balanced=False).assumes_balanced_queries


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"neighbours": 0}, "neighbours of ilpc should be a whole number of 1 or more, not 0"),
        ({"selected": 1.5}, "selected of ilpc should be a whole number"),
        ({"cleaning_steps": 0}, "cleaning_steps of ilpc should be a whole number"),
        ({"stride": 129}, "stride of ilpc should be a whole number from 1 to 128, not 129"),
        ({"alpha": 1.0}, "alpha of ilpc should be between 0 and 1"),
        ({"power": 0.0}, "power of ilpc should be positive"),
        ({"centering": "median"}, "centering of ilpc should be one of separate, joint, none"),
    ],
)
def test_hyper_parameters_out_of_range_are_refused(settings, said):
    with pytest.raises(StudyError, match=said):
        ILPC(**settings)


@pytest.mark.parametrize("balanced", [True, False])
@pytest.mark.parametrize(("way", "shot", "queries"), [(5, 1, 75), (5, 3, 40), (2, 1, 30)])
def test_queries_that_look_the_same_get_the_same_class(way, shot, queries, balanced):
    split = EmbeddedSplit(torch.full((way * shot + queries, 8), 0.5), way * shot + queries).with_features("l2")
    support, query = torch.arange(way * shot).view(1, way, shot), torch.arange(way * shot, len(split.embeddings))
    adaptation = ILPC(features="l2", centering="none", balanced=balanced, neighbours=5, cleaning_steps=20)
    predicted = adaptation.scores(split, support, query.unsqueeze(0)).argmax(-1)
    assert (predicted == predicted[0, 0]).all()

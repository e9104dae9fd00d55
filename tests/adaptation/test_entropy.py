from __future__ import annotations

import pytest
import torch
from easyfsl.methods import TransductiveFinetuning
from torch.nn.functional import cross_entropy, normalize

from fewshot_bench.adaptation import EmbeddedSplit, Entropy
from fewshot_bench.errors import StudyError
from fewshot_bench.testing.clusters import clustered_split, drawn_episodes, support_and_query

EPISODES = 4


def unit_split(**settings):
    split = clustered_split(**settings).with_features("l2")
    return EmbeddedSplit(split.embeddings.double(), split.images)


def entropy_of(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


def head_of_the_paper(support, labels, query, *, temperature, epochs, learning_rate, updates):
    """Support-based initialisation and two updates per epoch, by autograd."""
    centroids = torch.stack([support[labels == label].mean(0) for label in labels.unique()])
    weights, bias = normalize(centroids, dim=1).requires_grad_(), torch.zeros(len(centroids)).double().requires_grad_()

    def head(rows):
        return temperature * (rows @ weights.T + bias)

    losses = [lambda: cross_entropy(head(support), labels), lambda: entropy_of(head(query))]
    if updates == "joint":
        losses = [lambda: cross_entropy(head(support), labels) + entropy_of(head(query))]
    adam = torch.optim.Adam([weights, bias], lr=learning_rate)
    for _ in range(epochs):
        for loss in losses:
            adam.zero_grad()
            loss().backward()
            adam.step()
    return head(query).detach()


def easyfsl(support, labels, query, *, temperature, epochs, learning_rate):
    method = TransductiveFinetuning(
        torch.nn.Identity(), temperature=temperature, fine_tuning_steps=epochs, fine_tuning_lr=learning_rate
    )
    method.process_support_set(support, labels)
    return temperature * method(query)


def one_by_one(reference, split, support, query, **settings):
    labels = torch.arange(support.shape[1]).repeat_interleave(support.shape[2])
    rows = split.embeddings
    return torch.stack(
        [reference(rows[s.flatten()], labels, rows[q], **settings) for s, q in zip(support, query, strict=True)]
    )


@pytest.mark.parametrize("updates", ["alternating", "joint"])
@pytest.mark.parametrize("shot", [1, 5])
def test_gradients_by_hand_go_where_autograd_goes(shot, updates):
    split = unit_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    settings = {"temperature": 10.0, "epochs": 25, "learning_rate": 1e-3, "updates": updates}
    expected = one_by_one(head_of_the_paper, split, support, query, **settings)
    torch.testing.assert_close(Entropy(**settings).scores(split, support, query), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("learning_rate", [5e-5, 1e-3])
@pytest.mark.parametrize("shot", [1, 5])
def test_distances_with_joint_updates_are_easyfsl_transductive_finetuning(shot, learning_rate):
    split = unit_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=shot))
    settings = {"temperature": 1.0, "epochs": 25, "learning_rate": learning_rate}
    expected = one_by_one(easyfsl, split, support, query, **settings)
    scores = Entropy(head="distance", updates="joint", **settings).scores(split, support, query)
    torch.testing.assert_close(scores, expected, rtol=0, atol=1e-5)
    assert torch.equal(scores.argmax(-1), expected.argmax(-1))


def test_training_makes_predictions_more_certain():
    split = unit_split()
    support, query = support_and_query(drawn_episodes(20, shot=5))
    settings = {"temperature": 10.0, "learning_rate": 1e-3}
    before, after = (Entropy(epochs=epochs, **settings).scores(split, support, query) for epochs in (1, 25))
    assert all(entropy_of(later) < entropy_of(earlier) for earlier, later in zip(before, after, strict=True))


@pytest.mark.parametrize("head", ["linear", "distance"])
def test_span_coordinates_start_where_full_ones_start(head):
    split = unit_split()
    support, query = support_and_query(drawn_episodes(EPISODES, shot=3))
    settings = {"head": head, "epochs": 1, "learning_rate": 1e-10}
    span, full = (
        Entropy(coordinates=coordinates, **settings).scores(split, support, query) for coordinates in ("span", "full")
    )
    torch.testing.assert_close(span, full, rtol=1e-5, atol=1e-5)


def test_it_is_transductive_and_assumes_no_balance():
    assert Entropy().is_transductive
    assert not Entropy().assumes_balanced_queries


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"head": "deep"}, "head of entropy should be one of linear, distance, not deep"),
        ({"updates": "random"}, "updates of entropy should be one of alternating, joint, not random"),
        ({"coordinates": "polar"}, "coordinates of entropy should be one of full, span, not polar"),
        ({"temperature": 0}, "temperature of entropy should be positive, not 0"),
        ({"learning_rate": float("nan")}, "learning_rate of entropy should be positive, not nan"),
        ({"epochs": 0}, "epochs of entropy should be a whole number of 1 or more, not 0"),
    ],
)
def test_settings_out_of_range_are_refused(setting, message):
    with pytest.raises(StudyError, match=message):
        Entropy(**setting)

"""An episode's outcome is its own: nothing else of the study has a say in it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_episodes import IMAGES, PER_CLASS, SIDE, drawn, made_network, normalise, setup, weights_of
from torch.nn.functional import normalize

from fewshot_bench.adaptation import nearest_centroid
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.recipe import EpisodeRecipe

pytestmark = pytest.mark.slow

INDUCTIVE = [
    {},
    {"loss": "ce+schane"},
    {"bn": "support"},
    {"tune": "last:1", "loss": "ce+schane"},
    {"tune": "lora:2"},
    {"views": 4},
    {"batch_size": 4},
    {"patience": 1},
    {"start": "support", "on": "logits"},
]
TRANSDUCTIVE = [
    {"bn": "transductive"},
    {"query_entropy": 1.0, "start": "support", "on": "logits"},
    {"query_entropy": 1.0, "bn": "support", "batch_size": 4},
    {"query_entropy": 1.0, "patience": 1, "tune": "last:1"},
]


@pytest.fixture(scope="module")
def network():
    return made_network("conv4_32")


def recipe(**options):
    return EpisodeRecipe(**{"epochs": 6, "learning_rate": 1e-3, "precision": "float64", **options})


def same(found, expected):
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("options", [*INDUCTIVE, *TRANSDUCTIVE], ids=str)
def test_company_and_order_of_episodes_never_change_an_outcome(network, options):
    made, indices = setup(network, recipe(**options), shot=2), drawn(6, shot=2)
    whole = made.adapted(indices)
    order = [4, 0, 5, 2, 1, 3]
    shuffled = made.adapted(indices.some(order))
    same(shuffled.logits, whole.logits[order])
    for alone in (indices.some(slice(0, 1)), indices.some(slice(0, 4))):
        same(made.adapted(alone).logits, whole.logits[: len(alone.support)])


@pytest.mark.parametrize("options", [*INDUCTIVE, *TRANSDUCTIVE], ids=str)
def test_the_order_of_queries_never_changes_their_scores(network, options):
    made, indices = setup(network, recipe(**options)), drawn(3)
    order = torch.randperm(indices.query.shape[1], generator=torch.Generator().manual_seed(0))
    shuffled = type(indices)(indices.support, indices.query[:, order.numpy()], indices.keys)
    same(made.adapted(shuffled).logits, made.adapted(indices).logits[:, order])


@pytest.mark.parametrize("options", INDUCTIVE, ids=str)
def test_queries_of_noise_leave_the_weights_and_other_queries_of_an_inductive_method_alone(network, options):
    indices = drawn(3)
    noisy = IMAGES.copy()
    spoiled = indices.query[:, ::2].reshape(-1)
    spoiled = spoiled[~np.isin(spoiled, indices.support)]
    noisy[spoiled] = np.random.default_rng(0).integers(0, 256, (len(spoiled), SIDE, SIDE, 3), dtype=np.uint8)
    clean, dirty = (setup(network, recipe(**options), images=images).adapted(indices) for images in (IMAGES, noisy))
    for name, weight in weights_of(clean).items():
        assert torch.equal(dirty.weights[name], weight), name
    untouched = torch.from_numpy(~np.isin(indices.query, spoiled))
    assert untouched.any()
    assert not untouched.all()
    same(dirty.logits[untouched], clean.logits[untouched])


@pytest.mark.parametrize("options", TRANSDUCTIVE, ids=str)
def test_a_transductive_method_sees_the_other_queries(network, options):
    made, indices = setup(network, recipe(**options)), drawn(2)
    fewer = type(indices)(indices.support, indices.query[:, :10], indices.keys)
    assert not torch.allclose(made.adapted(fewer).logits, made.adapted(indices).logits[:, :10])


def test_batch_normalisation_of_the_support_normalises_queries_with_the_support(network):
    """Without a step, the embedding of a query is what the network gives it beside the plain support set."""
    made, indices = setup(network, recipe(bn="support", epochs=0), shot=3), drawn(1, shot=3)
    adapted = made.adapted(indices)
    support, query = (
        torch.from_numpy(IMAGES[rows[0]]).permute(0, 3, 1, 2) for rows in (indices.support, indices.query)
    )
    fresh = made_network("conv4_32").double()
    for module in fresh.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = 1.0
    fresh.train()
    with torch.no_grad():
        own = fresh(normalise(support).double())
    layers = [module for module in fresh.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    # PyTorch keeps the unbiased variance; normalisation itself takes the biased one.
    counts = [15 * (SIDE // 2**depth) ** 2 for depth in range(4)]
    for layer, count in zip(layers, counts, strict=True):
        layer.running_var *= (count - 1) / count
    with torch.no_grad():
        embedded = fresh.eval()(normalise(query).double())
        centroids = normalize(normalize(own, dim=-1).view(5, 3, -1).mean(1), dim=-1)
    expected = 10 / own.norm(dim=-1).mean() * embedded @ centroids.T
    torch.testing.assert_close(adapted.logits[0], expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("shot", [1, 3])
def test_without_a_step_the_method_is_the_nearest_centroid(network, shot):
    made, indices = setup(network, recipe(epochs=0), shot=shot), drawn(5, shot=shot)
    adapted = made.adapted(indices)
    with torch.no_grad():
        embedded = [
            made_network("conv4_32").double()(
                normalise(torch.from_numpy(IMAGES[rows.reshape(-1)]).permute(0, 3, 1, 2)).double()
            )
            for rows in (indices.support, indices.query)
        ]
    support, query = (normalize(some, dim=-1) for some in embedded)
    scores = nearest_centroid(support.view(5, 5, shot, -1), query.view(5, 25, -1))
    assert torch.equal(adapted.logits.argmax(-1), scores.argmax(-1))
    assert adapted.losses.shape == (0, 5)


@pytest.mark.parametrize("tune", ["all", "last:1", "norm", "bias", "lora:2", "head"])
def test_training_lowers_the_loss_of_every_support_set_and_moves_what_is_tuned_only(network, tune):
    made, indices = (
        setup(network, recipe(tune=tune, epochs=30, learning_rate=3e-3, dropout=0.0), shot=2),
        drawn(4, shot=2),
    )
    before = {name: weight.clone() for name, weight in made.parts.initial.items()}
    adapted = made.adapted(indices)
    assert (adapted.losses[-5:].mean(0) < adapted.losses[:5].mean(0)).all()
    assert set(adapted.weights) == {*before, "head.weight", "head.bias"}
    for name, first in before.items():
        moved = (adapted.weights[name] - first).abs().flatten(1).amax(1)
        assert (moved > 0).all(), name
        assert torch.equal(made.parts.initial[name], first), "the backbone itself is left alone"


def test_the_second_episodes_of_a_trainer_are_like_the_first(network):
    made, indices = setup(network, recipe(bn="support", loss="ce+schane")), drawn(6)
    trainer = made.trainer(3)
    trainer.adapt(made.task(indices.some(slice(3, 6))))
    again = trainer.adapt(made.task(indices.some(slice(0, 3))))
    same(again.logits, made.adapted(indices.some(slice(0, 3))).logits)


def test_in_a_1_shot_episode_the_two_views_are_the_positive_pair(network):
    """SupCon and SimCLR mean the same then, and SCHaNe is not zero."""
    indices = drawn(3)
    losses = {
        loss: setup(network, recipe(loss=loss, lambda_=1.0, epochs=4)).adapted(indices).losses
        for loss in ("ce+supcon", "ce+simclr", "ce+schane")
    }
    same(losses["ce+supcon"], losses["ce+simclr"])
    assert (losses["ce+schane"] > 0).all()


def test_label_smoothing_is_that_of_torch(network):
    made, indices = setup(network, recipe(label_smoothing=0.2, epochs=1, dropout=0.0)), drawn(2)
    task = made.task(indices)
    trainer = made.trainer(2)
    found = trainer.adapt(task).losses[0]
    plain = setup(network, recipe(epochs=0)).trainer(2)
    plain.adapt(made.task(indices))
    with torch.no_grad():
        logits = plain.head(plain._embed(made.task(indices).views.at(0, None)))
    labels = torch.arange(5).repeat(2)
    expected = torch.stack([torch.nn.functional.cross_entropy(some, labels, label_smoothing=0.2) for some in logits])
    same(found, expected)


def test_every_support_image_is_seen_in_every_epoch_when_batches_are_smaller(network):
    made, indices = setup(network, recipe(batch_size=4, epochs=3), shot=2), drawn(2, shot=2)
    trainer, task = made.trainer(2), made.task(indices)
    seen = [trainer._chosen(task, step, 3) for step in range(9)]
    assert all(chosen.shape == (2, 4) for chosen in seen)
    for epoch in range(3):
        of_epoch = torch.cat(seen[3 * epoch : 3 * epoch + 3], dim=1)
        assert all(set(row.tolist()) == set(range(10)) for row in of_epoch)
    assert not torch.equal(seen[0], seen[3]), "each epoch has an order of its own"
    assert trainer.adapt(task).losses.shape == (9, 2)


def test_an_episode_that_learns_nothing_more_stops_with_the_weights_it_had(network):
    """With a learning rate of nearly nothing every loss goes up and down, and all stop early."""
    options = {"epochs": 12, "dropout": 0.0, "learning_rate": 1e-3}
    indices = drawn(4)
    patient, full = (setup(network, recipe(patience=patience, **options)).adapted(indices) for patience in (1, 0))
    losses = full.losses
    rises = (losses[1:] >= losses[:-1].cummin(0).values).double().argmax(
        0
    ) + 2  # steps done when the first rise is seen
    assert (rises < 12).any()
    for episode, steps in enumerate(rises.tolist()):
        short = setup(network, recipe(**{**options, "epochs": steps})).adapted(indices)
        same(patient.weights["head.weight"][episode], short.weights["head.weight"][episode])


def test_a_loss_that_is_not_finite_is_one_sentence(network):
    made = setup(network, EpisodeRecipe(epochs=5, learning_rate=1e30))
    with pytest.raises(StudyError, match="not finite"):
        made.adapted(drawn(2))


def test_batch_statistics_are_refused_where_there_is_no_batch_normalisation():
    transformer = made_network("vit_tiny_patch16_224", depth=2)
    with pytest.raises(StudyError, match="has no batch normalisation for --bn support"):
        setup(transformer, recipe(bn="support"))


def test_an_episode_that_stopped_early_is_safe_from_what_the_others_do_later(network):
    """The learning rate tears every later step apart; what was kept before is finite."""
    made = setup(network, recipe(patience=1, epochs=8, learning_rate=1e3))
    adapted = made.adapted(drawn(2))
    assert torch.isfinite(adapted.logits).all()


def test_a_seed_of_its_own_gives_other_views(network):
    indices = drawn(2)
    first = setup(network, recipe()).adapted(indices)
    other = setup(network, recipe()).adapted(type(indices)(indices.support, indices.query, indices.keys + 1))
    assert not torch.allclose(first.losses, other.losses)


def test_classes_can_be_told_apart(network):
    made, indices = setup(network, EpisodeRecipe(epochs=5), shot=5), drawn(6, shot=5, query=10)
    truth = torch.arange(5).repeat_interleave(10)
    assert (made.adapted(indices).logits.argmax(-1) == truth).float().mean() > 0.8
    assert PER_CLASS >= 15

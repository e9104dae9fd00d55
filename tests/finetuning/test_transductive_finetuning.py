"""Transductive fine-tuning against a loop written from Dhillon et al. (2020), one episode after another in float64."""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_episodes import IMAGES, drawn, made_base_head, made_network, normalise, setup, weights_of
from torch import Tensor, nn
from torch.nn import functional

from fewshot_bench.finetuning.episode_tasks import embedding_task
from fewshot_bench.finetuning.frozen_prefix import embedding_parts
from fewshot_bench.finetuning.recipe import EpisodeRecipe
from fewshot_bench.finetuning.trainer import EpisodeTrainer
from fewshot_bench.training.randomness import episode_keys

EPOCHS, RATE, WAY = 8, 5e-5, 3

DHILLON = EpisodeRecipe(
    epochs=EPOCHS,
    learning_rate=RATE,
    optimizer="adam",
    weight_decay=0.0,
    dropout=0.0,
    start="support",
    on="logits",
    query_entropy=1.0,
    augmentation="none",
    precision="float64",
)


@pytest.fixture(scope="module")
def network() -> nn.Module:
    return made_network("conv4_32")


@dataclass
class Reference:
    """The classifier of the paper: backbone, base classifier, ReLU, L2 normalisation, linear layer."""

    backbone: nn.Module
    base: nn.Linear
    new: nn.Linear

    @classmethod
    def of(cls, network: nn.Module, support: Tensor, labels: Tensor) -> Reference:
        backbone = copy.deepcopy(network).double()
        head = made_base_head(backbone(support[:2]).shape[1])
        base = nn.Linear(*reversed(head.weight.shape)).double()
        base.load_state_dict({"weight": head.weight, "bias": head.bias})
        new = nn.Linear(base.out_features, WAY).double()
        with torch.no_grad():
            rectified = torch.clamp(base(backbone(support)), min=0)
            for label in range(WAY):
                mean = rectified[labels == label].mean(0)
                new.weight[label] = mean / mean.norm()
            new.bias.zero_()
        return cls(backbone, base, new)

    def __call__(self, images: Tensor) -> Tensor:
        rectified = torch.clamp(self.base(self.backbone(images)), min=0)
        return self.new(rectified / rectified.norm(dim=1, keepdim=True))

    def parameters(self) -> list[nn.Parameter]:
        return [p for module in (self.backbone, self.base, self.new) for p in module.parameters()]


def images_of(rows: np.ndarray) -> Tensor:
    return normalise(torch.from_numpy(IMAGES[rows]).permute(0, 3, 1, 2)).double()


def fine_tuned(network: nn.Module, support: Tensor, query: Tensor, *, is_transductive: bool) -> Reference:
    labels = torch.arange(WAY).repeat_interleave(len(support) // WAY)
    model = Reference.of(network, support, labels)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE)
    for _ in range(EPOCHS):
        optimizer.zero_grad()
        functional.cross_entropy(model(support), labels).backward()
        optimizer.step()
        if is_transductive:
            optimizer.zero_grad()
            torch.distributions.Categorical(logits=model(query)).entropy().mean().backward()
            optimizer.step()
    return model


@pytest.mark.slow
@pytest.mark.parametrize("is_transductive", [True, False])
@pytest.mark.parametrize("shot", [1, 2])
def test_episodes_at_once_give_the_scores_and_weights_of_the_papers_loop(network, shot, is_transductive):
    recipe = replace(DHILLON, query_entropy=float(is_transductive))
    indices = drawn(2, way=WAY, shot=shot, query=3)
    adapted = setup(network, recipe, way=WAY, shot=shot).adapted(indices)
    weights = weights_of(adapted)
    for episode in range(2):
        support, query = images_of(indices.support[episode]), images_of(indices.query[episode])
        model = fine_tuned(network, support, query, is_transductive=is_transductive)
        expected = model(query)
        torch.testing.assert_close(adapted.logits[episode], expected, rtol=0, atol=1e-8)
        assert torch.equal(adapted.logits[episode].argmax(-1), expected.argmax(-1))
        own = {f"base_head.{name}": value for name, value in model.base.named_parameters()}
        own |= {f"head.{name}": value for name, value in model.new.named_parameters()}
        own |= dict(model.backbone.named_parameters())
        assert own.keys() == weights.keys()
        for name, value in own.items():
            torch.testing.assert_close(weights[name][episode], value, rtol=0, atol=1e-8, msg=name)


def test_the_entropy_of_the_queries_falls_and_no_further_without_its_update(network):
    indices = drawn(3, way=WAY, query=4)
    entropies = {}
    for weight in (0.0, 1.0):
        recipe = replace(DHILLON, query_entropy=weight, learning_rate=1e-3, precision="float32")
        logits = setup(network, recipe, way=WAY).adapted(indices).logits
        entropies[weight] = torch.distributions.Categorical(logits=logits).entropy().mean()
    assert entropies[1.0] < entropies[0.0]


def test_queries_in_parts_are_queries_at_once(network):
    """A batch that is smaller than the queries bounds the memory and changes nothing but rounding."""
    indices = drawn(2, way=WAY, query=4)
    whole, parts = (
        setup(network, replace(DHILLON, batch_size=size, epochs=3), way=WAY).adapted(indices) for size in (1024, 5)
    )
    torch.testing.assert_close(parts.logits, whole.logits, rtol=0, atol=1e-9)


def test_a_head_alone_agrees_with_easyfsl_where_the_two_mean_the_same():
    """easyfsl moves prototypes, scores by Euclidean distance, and adds both losses up in one step.

    With one shot and embeddings of length one both begin with the same ranking; they go apart as the lengths of the
    prototypes change, which moves queries that lie between two classes. With more shots the means are shorter than one
    from the beginning, and easyfsl prefers the longer ones.
    """
    easyfsl = pytest.importorskip("easyfsl.methods")
    generator, random = torch.Generator().manual_seed(0), np.random.default_rng(0)
    rows = torch.randn(12, 24, generator=generator).repeat_interleave(20, 0)
    rows = functional.normalize(rows + 1.2 * torch.randn(240, 24, generator=generator), dim=1)
    picked = [[label * 20 + random.permutation(20)[:9] for label in random.permutation(12)[:WAY]] for _ in range(40)]
    support, query = np.split(np.array(picked, dtype=np.int32), [1], axis=2)
    support, query = support.reshape(40, -1), query.reshape(40, -1)
    recipe = replace(DHILLON, tune="head", on="embeddings", precision="float32", views=2, learning_rate=1e-3)
    task = embedding_task(torch.cat([rows] * 3), len(rows), support, query, episode_keys(0, 0, np.arange(40)))
    trainer = EpisodeTrainer(embedding_parts(24, rows.device), recipe, episodes=40, way=WAY, shot=1)
    logits = trainer.adapt(task).logits
    theirs = easyfsl.TransductiveFinetuning(backbone=nn.Identity(), fine_tuning_steps=EPOCHS, fine_tuning_lr=1e-3)
    expected = []
    for one, other in zip(support, query, strict=True):
        theirs.process_support_set(rows[one.astype(np.int64)], torch.arange(WAY))
        expected.append(theirs(rows[other.astype(np.int64)]).detach().argmax(-1))
    differs = logits.argmax(-1) != torch.stack(expected)
    assert 0 < differs.float().mean() < 0.02
    best = logits.topk(2).values
    gaps = best[..., 0] - best[..., 1]
    assert gaps[differs].max() < gaps.quantile(0.15)

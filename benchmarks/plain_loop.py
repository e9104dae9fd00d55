"""The same fine-tuning the way everybody writes it: copy the network, train it, go on to the next episode.

The batched trainer is tested and measured against it.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from fewshot_bench.finetuning.episode_tasks import FOR_DROPOUT, EpisodeTask
from fewshot_bench.finetuning.frozen_prefix import NetworkParts
from fewshot_bench.finetuning.head import StackedHead, dropped, use_batch_statistics, use_statistics_of
from fewshot_bench.finetuning.recipe import EpisodeRecipe, learning_rate
from fewshot_bench.losses import extra_settings, loss_function, reading_of
from fewshot_bench.training.randomness import keyed_uniform


def adapt_one(
    parts: NetworkParts, recipe: EpisodeRecipe, task: EpisodeTask, *, way: int, shot: int
) -> tuple[Tensor, Tensor, nn.Module]:
    """Fine-tune a copy of the network on one episode and classify its queries.

    Args:
        parts: the backbone.
        recipe: how to train; the whole support set is one batch, and nothing stops early.
        task: one episode.
        way: N.
        shot: K.

    Returns:
        Logits of the queries, [M, N]; losses of the steps, [steps]; the copy.
    """
    network = copy.deepcopy(parts.rest)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in parts.tuned)
    if recipe.bn != "frozen":
        use_batch_statistics(network)

    def embed(inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=recipe.precision == "bf16"):
            embeddings: Tensor = network(inputs)
        return embeddings.to(parts.sample.dtype)

    base_head = _base_head(parts)

    def outputs(embeddings: Tensor) -> Tensor:
        logits: Tensor = base_head(embeddings)
        return logits.relu() if recipe.rectifies else logits

    def features(embeddings: Tensor) -> Tensor:
        return normalize(outputs(embeddings), dim=-1) if recipe.start == "support" else outputs(embeddings)

    head = _head(parts, recipe, outputs(embed(task.support[0])).detach(), way, shot)
    optimizer = _optimizer(recipe, network, base_head, head)
    images = torch.arange(way * shot, device=task.support.device).repeat(2)
    losses = []
    for step in range(recipe.epochs):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step, recipe.epochs, 1)
        embeddings = embed(task.views.at(step, None)[0])
        seen = features(embeddings)
        if recipe.dropout:
            uniform = keyed_uniform(task.keys.on_device, (step, FOR_DROPOUT), seen.numel())
            seen = dropped(seen.unsqueeze(0), uniform, recipe.dropout)[0]
        loss = loss_function(recipe.loss)(
            head(seen),
            embeddings,
            images // shot,
            images,
            lambda_=recipe.lambda_,
            tau=recipe.tau,
            reading=reading_of(recipe.loss, recipe.reading),
            **extra_settings(recipe.loss, **recipe.contrast),
        )
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        losses.append(loss.detach())
        if recipe.sees_queries:
            predicted = head(features(embed(task.query(slice(None))[0]))).softmax(dim=-1)
            optimizer.zero_grad()
            torch.autograd.backward(recipe.query_entropy * torch.special.entr(predicted).sum(dim=-1).mean())
            optimizer.step()
    with torch.no_grad():
        if recipe.bn == "support":
            use_statistics_of(network, lambda: embed(task.support[0]))
        logits = head(features(embed(task.query(slice(None))[0])))
    return logits, torch.stack(losses), network


def _base_head(parts: NetworkParts) -> nn.Module:
    """A copy of the classifier of the base training, if heads see its logits."""
    if parts.base_head is None:
        return nn.Identity()
    classes, size = parts.base_head.weight.shape
    head = nn.Linear(size, classes, device=parts.sample.device, dtype=parts.sample.dtype)
    for name, parameter in head.named_parameters():
        parameter.data.copy_(getattr(parts.base_head, name))
        parameter.requires_grad_(name in parts.tuned_of_base_head)
    return head


def _head(parts: NetworkParts, recipe: EpisodeRecipe, support: Tensor, way: int, shot: int) -> nn.Linear:
    start = StackedHead(1, way, parts.feature_size, like=support)
    start.start(recipe.start, support.view(1, way, shot, -1), recipe.scale)
    head = nn.Linear(parts.feature_size, way, device=support.device, dtype=support.dtype)
    head.weight.data.copy_(start.weight.detach()[0])
    head.bias.data.copy_(start.bias.detach()[0])
    return head


def _optimizer(recipe: EpisodeRecipe, *modules: nn.Module) -> torch.optim.Optimizer:
    trained = [p for module in modules for p in module.parameters() if p.requires_grad]
    least = 0 if recipe.decays == "all" else 2
    groups = [
        {"params": [p for p in trained if p.ndim >= least], "weight_decay": recipe.weight_decay},
        {"params": [p for p in trained if p.ndim < least], "weight_decay": 0.0},
    ]
    kind = torch.optim.AdamW if recipe.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=recipe.highest_rate)

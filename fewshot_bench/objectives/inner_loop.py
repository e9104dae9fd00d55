"""The inner loop of gradient-based meta-learning: a few gradient steps on the support set of each task.

MAML (Finn et al., 2017) learns weights from which K steps of gradient descent on a support set classify the queries:

    w_0 = w,    w_k = w_(k-1) - a * dL(w_(k-1); support)/dw_(k-1),    minimise over w:  L(w_K; query)

Its gradient goes through the steps, so it holds second derivatives. First-order MAML leaves them out: the gradient
with respect to w_K is taken as that with respect to w. ANIL (Raghu et al., 2020) moves the head alone in the inner
loop, so that each image goes through the backbone once. Meta-SGD (Li et al., 2017) learns the rates a too, one for
each number in the weights.

All functions here are pure and take many tasks at once: weights are stacked, [T, *shape], one copy for each task.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.task_head import BACKBONE, HEAD
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.batch_normalisation import normalise_batches
from fewshot_bench.finetuning.head import has_batch_norm
from fewshot_bench.finetuning.stacking import stack_network
from fewshot_bench.losses.cross_entropy import cross_entropy
from fewshot_bench.training.recipe import Statistics

Weights = Mapping[str, Tensor]
"""Tensors by name, `backbone.*` and `head.*`."""


def inner_steps(
    losses: Callable[[Weights], Tensor], weights: Weights, rates: Weights, *, steps: int, first_order: bool = False
) -> dict[str, Tensor]:
    """Gradient descent on the losses of many tasks, differentiable with respect to first weights and rates.

    Args:
        losses: from stacked weights to the loss of each task on its support set, [T].
        weights: the first weights of each task, [T, *shape]; they require gradients.
        rates: of each of the weights, [] or [*shape].
        steps: K.
        first_order: whether the gradients of the steps count as constants.

    Returns:
        The weights of each task after the steps, [T, *shape].

    Two tasks whose losses are (w - 1)^2 and (w - 3)^2, after one step from 0:

    >>> first = torch.zeros(2, requires_grad=True)
    >>> goals, rates = torch.tensor([1.0, 3.0]), {"w": torch.tensor(0.1)}
    >>> moved = inner_steps(lambda weights: (weights["w"] - goals) ** 2, {"w": first}, rates, steps=1)
    >>> [round(value, 4) for value in moved["w"].tolist()]
    [0.2, 0.6]
    """
    moved = dict(weights)
    for _ in range(steps):
        gradients = torch.autograd.grad(
            losses(moved).sum(), list(moved.values()), create_graph=not first_order, materialize_grads=True
        )
        moved = {
            name: weight - rates[name] * gradient
            for (name, weight), gradient in zip(moved.items(), gradients, strict=True)
        }
    return moved


@dataclass(frozen=True)
class InnerLoop:
    """How a network adapts to a support set.

    Attributes:
        steps: K.
        first_order: whether the gradients of the steps count as constants.
    """

    steps: int
    first_order: bool = False


class TaskNetwork:
    """A backbone with a linear head, as a function of the weights of several tasks.

    Batch normalisation uses the statistics of the images that go through the network together. With "batch" these are
    the support images of a task in the inner loop, then its queries, as in MAML's code and learn2learn: queries inform
    each other. With "support" the queries are normalised by the statistics of their support set under the same weights.
    """

    def __init__(self, backbone: nn.Module, sample: Tensor, tasks: int, statistics: Statistics) -> None:
        """Stack a backbone, which is not changed.

        Args:
            backbone: inputs [B, ...] -> embeddings [B, D].
            sample: two inputs, [2, ...], on its device.
            tasks: T.
            statistics: of batch normalisation.

        Raises:
            StudyError: the backbone cannot be stacked, or has no batch normalisation whose batches would matter.
        """
        own = copy.deepcopy(backbone).eval()
        names, normalises = [name for name, _ in own.named_parameters()], has_batch_norm(own)
        if statistics == "batch" and not normalises:
            raise StudyError(
                f"{type(backbone).__name__} has no batch normalisation, so no statistics of a batch. "
                "Use inner_statistics=support."
            )
        # Batch normalisation of each task apart needs the tasks side by side in the channels.
        layout = "channels" if normalises else "vmap"
        self.stack = stack_network(own, names, tasks, sample, layout=layout)
        self._by_support = statistics == "support" and normalises
        self._normalise_by_first = normalise_batches(self.stack.module) if normalises else None

    def embed_support(self, weights: Weights, support: Tensor) -> Tensor:
        """Embeddings [T, N * K, D] of the support images [T, N * K, ...]."""
        if self._normalise_by_first is not None:
            self._normalise_by_first(None)
        return self._embed(weights, support)

    def embed_queries(self, weights: Weights, support: Tensor, query: Tensor) -> Tensor:
        """Embeddings [T, M, D] of the queries [T, M, ...]."""
        if self._normalise_by_first is None or not self._by_support:
            return self._embed(weights, query)
        self._normalise_by_first(support.shape[1])
        return self._embed(weights, torch.cat([support, query], dim=1))[:, support.shape[1] :]

    def query_logits(self, weights: Weights, rates: Weights, support: Tensor, query: Tensor, loop: InnerLoop) -> Tensor:
        """Adapt to the support sets, and classify the queries.

        Args:
            weights: of backbone and head, [*shape].
            rates: of the weights that move in the inner loop, [] or [*shape]; the others stay as they are.
            support: inputs of the support images, class by class, [T, N * K, ...].
            query: inputs of the queries, [T, M, ...].
            loop: how to adapt.

        Returns:
            Logits, [T, M, N].
        """
        tasks, images = support.shape[:2]
        first = {name: weight.expand(tasks, *weight.shape) for name, weight in weights.items()}
        way = weights["head.bias"].shape[0]
        labels = torch.arange(way, device=support.device).repeat_interleave(images // way)
        moves_backbone = any(name.startswith(BACKBONE) for name in rates)
        frozen = None if moves_backbone else self.embed_support(first, support)

        def losses(moved: Weights) -> Tensor:
            now = {**first, **moved}
            embeddings = self.embed_support(now, support) if frozen is None else frozen
            return cross_entropy(head_logits(now, embeddings), labels)

        moving = {name: weight for name, weight in first.items() if name in rates}
        moved = inner_steps(losses, moving, rates, steps=loop.steps, first_order=loop.first_order)
        adapted = {**first, **moved}
        return head_logits(adapted, self.embed_queries(adapted, support, query))

    def _embed(self, weights: Weights, inputs: Tensor) -> Tensor:
        own = {name.removeprefix(BACKBONE): weight for name, weight in weights.items() if name.startswith(BACKBONE)}
        return self.stack.embed(own, inputs)


def head_logits(weights: Weights, embeddings: Tensor) -> Tensor:
    """Logits [T, B, N] of embeddings [T, B, D] by the head of each task, [T, N, D] and [T, N]."""
    weight, bias = (weights[name] for name in HEAD)
    return torch.baddbmm(bias.unsqueeze(1), embeddings, weight.transpose(1, 2))

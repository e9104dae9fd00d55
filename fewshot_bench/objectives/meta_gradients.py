"""Gradient-based meta-learning as the objective of a training: MAML, first-order MAML, ANIL and Meta-SGD."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.task_head import BACKBONE, TaskHead
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.head import has_batch_norm
from fewshot_bench.losses.cross_entropy import cross_entropy
from fewshot_bench.objectives.episodic import Episodic
from fewshot_bench.objectives.inner_loop import HEAD, InnerLoop, TaskNetwork
from fewshot_bench.training import Encoder, Measured, random_views
from fewshot_bench.training.batches import Samples
from fewshot_bench.training.recipe import Recipe


class MetaHead(nn.Module):
    """The head that every task starts from, with the learning rates of the inner loop if these are trained.

    Attributes:
        weight: [N, D].
        bias: [N].
        rates: one tensor for each of the weights that move, of its shape; empty where all rates are the recipe's.
    """

    def __init__(self, way: int, embedding_size: int, recipe: Recipe, moving: Mapping[str, torch.Size]) -> None:
        """Initialise a head.

        Args:
            way: N.
            embedding_size: D.
            recipe: gives the first rate, and whether the rates are trained.
            moving: shapes of the weights of the backbone that move, by name.
        """
        super().__init__()
        self.weight = nn.Parameter(nn.init.xavier_uniform_(torch.empty(way, embedding_size)))
        self.bias = nn.Parameter(torch.zeros(way))
        self._rate = recipe.inner_learning_rate
        shapes = {**moving, **dict(zip(HEAD, (self.weight.shape, self.bias.shape), strict=True))}
        self._names = tuple(shapes)
        trained = shapes.values() if recipe.objective == "meta-sgd" else ()
        self.rates = nn.ParameterList(torch.full(shape, self._rate) for shape in trained)

    def weights(self) -> dict[str, Tensor]:
        """Weight and bias by name."""
        return dict(zip(HEAD, (self.weight, self.bias), strict=True))

    def rates_by_name(self) -> dict[str, Tensor]:
        """The learning rate of each of the weights that move, [] or of its shape."""
        if len(self.rates):
            return dict(zip(self._names, self.rates, strict=True))
        return dict.fromkeys(self._names, torch.tensor(self._rate).to(self.weight))

    def task_head(self) -> TaskHead:
        """What the checkpoint keeps, on the CPU."""
        rates = {name: rate.detach().cpu().clone() for name, rate in self.rates_by_name().items()}
        return TaskHead(self.weight.detach().cpu().clone(), self.bias.detach().cpu().clone(), rates)


class MetaGradients(Episodic):
    """An objective: the loss of the queries after a few gradient steps on the support set of their task.

    All tasks of a step are computed together; see `inner_loop`. The loss is the mean over tasks, without the dropout
    and DropBlock that the backbone may have.
    """

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder)
        recipe = self.recipe
        if recipe.precision != "float32":
            raise StudyError(f"{recipe.objective} computes in float32. Leave out --precision {recipe.precision}.")
        if encoder.computing.is_compiled:
            raise StudyError(f"{recipe.objective} cannot compile the network. Leave out --compile.")
        self._loop = InnerLoop(recipe.inner_steps, recipe.first_order)
        moving = {} if recipe.objective == "anil" else {name: w.shape for name, w in self._backbone_weights().items()}
        self._head = MetaHead(recipe.way, encoder.embedding_size, recipe, moving).to(encoder.device)
        self.head = self._head
        self._normalises = has_batch_norm(encoder.backbone)
        two = encoder.normalise(encoder.loader.load(torch.arange(2)).images.to(encoder.device))
        self._network = TaskNetwork(encoder.backbone, two, recipe.tasks, recipe.inner_statistics)

    def _backbone_weights(self) -> dict[str, Tensor]:
        return {BACKBONE + name: weight for name, weight in self.encoder.backbone.named_parameters()}

    def gradients(self, samples: Samples, backward: Callable[[Tensor], None]) -> Measured:
        """Add the gradients of the mean loss over the queries of all tasks; see `Objective`."""
        recipe = self.recipe
        views = random_views(samples.images, self.encoder.augmentation, count=1).to(self.encoder.device)
        inputs = self.encoder.normalise(views)
        tasks = inputs.view(recipe.tasks, recipe.way, recipe.shot + recipe.query, *inputs.shape[1:])
        support, query = tasks[:, :, : recipe.shot].flatten(1, 2), tasks[:, :, recipe.shot :].flatten(1, 2)
        if self._normalises:
            with torch.no_grad():  # for adaptations that use running statistics; the inner loop does not
                self.encoder.backbone(support.flatten(0, 1))
        weights = self._backbone_weights() | self._head.weights()
        logits = self._network.query_logits(weights, self._head.rates_by_name(), support, query, self._loop)
        loss = cross_entropy(logits, self._truth, label_smoothing=recipe.label_smoothing).mean()
        backward(loss)
        hits = (logits.argmax(-1) == self._truth).sum()
        return Measured(loss.detach(), hits, logits.shape[0] * logits.shape[1], len(samples.rows))

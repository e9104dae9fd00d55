"""Gradient-based meta-learning as the objective of a training: MAML, first-order MAML, ANIL and Meta-SGD."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from fewshot_bench.backbones.task_head import BACKBONE, HEAD, TaskHead
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.head import has_batch_norm
from fewshot_bench.objectives.episodic import Episodic
from fewshot_bench.objectives.inner_loop import InnerLoop, TaskNetwork
from fewshot_bench.training import Encoder
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
    """An objective: the queries of a task are classified after a few gradient steps on its support set.

    All tasks of a step are computed together; see `inner_loop`. The backbone's own dropout and DropBlock are left out.
    Its running statistics follow the support images, for adaptations that use them; the inner loop does not.
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
        self._networks: dict[int, TaskNetwork] = {}
        self._network(self._tasks_at_once)  # refuses backbones that cannot be stacked

    def _logits(self, views: Tensor) -> Tensor:
        """See `Episodic`."""
        recipe = self.recipe
        inputs = self.encoder.normalise(views.flatten(0, 1))
        tasks = inputs.view(len(views), recipe.way, recipe.shot + recipe.query, *inputs.shape[1:])
        support, query = tasks[:, :, : recipe.shot].flatten(1, 2), tasks[:, :, recipe.shot :].flatten(1, 2)
        if self._normalises:
            with torch.no_grad():
                self.encoder.backbone(support.flatten(0, 1))
        weights = self._backbone_weights() | self._head.weights()
        return self._network(len(views)).query_logits(weights, self._head.rates_by_name(), support, query, self._loop)

    def _backbone_weights(self) -> dict[str, Tensor]:
        return {BACKBONE + name: weight for name, weight in self.encoder.backbone.named_parameters()}

    def _network(self, tasks: int) -> TaskNetwork:
        """The network for that many tasks at once; the last micro-batch of a step may hold fewer."""
        if tasks not in self._networks:
            encoder = self.encoder
            two = encoder.normalise(encoder.loader.load(torch.arange(2)).images.to(encoder.device))
            self._networks[tasks] = TaskNetwork(encoder.backbone, two, tasks, self.recipe.inner_statistics)
        return self._networks[tasks]

"""The cost of a plan on another machine: its memory and operations, counted without running it.

Operations are those of matrix products, convolutions and attention, two for each multiplication and addition. Networks
are followed with tensors that have a shape and no content, so that a large one costs a second.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from fewshot_bench.adaptation import MAML, Adaptation, Finetune
from fewshot_bench.backbones import Backbone
from fewshot_bench.cache.trials import no_trials
from fewshot_bench.datasets import Dataset, ImageSplit
from fewshot_bench.engine.engine import Chunk, LocalEngine
from fewshot_bench.engine.finetune import MOST_AT_ONCE, STORED_AT_ONCE, as_finetune, base_head_for
from fewshot_bench.episodes import Protocol
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.frozen_prefix import network_parts
from fewshot_bench.finetuning.memory import SHARE_FOR_EPISODES, bytes_per_episode
from fewshot_bench.finetuning.trainer import EpisodeTrainer
from fewshot_bench.losses import LOSSES
from fewshot_bench.progress import SILENT
from fewshot_bench.study.base_stage import four_inputs, micro_batch_or_problem
from fewshot_bench.study.estimates import Estimated, Machine
from fewshot_bench.study.measurements import ChunkTime, MeasuredBuilder, Measurements, TrainingNeeds, View, network_key
from fewshot_bench.study.resolved import ResolvedStudy
from fewshot_bench.training import Recipe, StepMemory, batch_norms
from fewshot_bench.training.optimisation import SHARE_OF_MEMORY, autocast, kept_bytes, training_bytes
from fewshot_bench.training.recipe import PrecisionName
from fewshot_bench.units import bytes_text

_CPU = torch.device("cpu")
_EMBEDDED_AT_ONCE = 256
_COUNTED_EPISODES = 4


@dataclass(frozen=True)
class NetworkCost:
    """What one image costs a network.

    Attributes:
        forward: operations of a forward pass.
        training: operations of a forward and a backward pass.
        kept: bytes that a training keeps for its backward pass.
        embedding: bytes of the largest inputs and outputs of one of its modules.
    """

    forward: float
    training: float
    kept: float
    embedding: float


def network_cost(network: nn.Module, four_images: Tensor, *, precision: PrecisionName = "float32") -> NetworkCost:
    """Count the operations and bytes of a network, which is not changed.

    Attention is that of a CPU, which keeps no matrix of all pairs, as the fused kernels of a GPU.

    Args:
        network: on a CPU.
        four_images: its inputs, [4, C, S, S].
        precision: of its products.
    """
    probe = copy.deepcopy(network).train()
    try:
        with FakeTensorMode(allow_non_fake_inputs=True) as fake:
            tensors = {
                **{name: nn.Parameter(fake.from_tensor(value.data)) for name, value in probe.named_parameters()},
                **{name: fake.from_tensor(value) for name, value in probe.named_buffers()},
            }
            return _cost(
                probe, partial(torch.func.functional_call, probe, tensors), fake.from_tensor(four_images), precision
            )
    except Exception:  # a network that looks at values is run
        return _cost(probe, probe, four_images, precision)


def _cost(probe: nn.Module, forward: Callable[..., Any], four_images: Tensor, precision: PrecisionName) -> NetworkCost:
    def embedded(images: Tensor) -> Tensor:
        with autocast(precision, _CPU):
            embeddings: Tensor = forward((images,)) if forward is not probe else forward(images)
        return embeddings

    count, two = len(four_images), four_images[:2].clone()
    with torch.enable_grad():
        kept = [kept_bytes(partial(embedded, images)) for images in (four_images, two)]
        with FlopCounterMode(display=False) as operations:
            embeddings = embedded(four_images)
        whole = operations.get_total_flops()
        with FlopCounterMode(display=False) as operations:
            torch.autograd.backward(embeddings.float().sum())
    sizes: list[int] = []
    hooks = [module.register_forward_hook(partial(_note_size, sizes)) for module in probe.modules()]
    with torch.no_grad():
        embedded(four_images)
    for hook in hooks:
        hook.remove()
    training = (whole + operations.get_total_flops()) / count
    return NetworkCost(whole / count, training, (kept[0] - kept[1]) / 2, max(sizes, default=0) / count)


def _note_size(sizes: list[int], module: nn.Module, inputs: Any, output: Any) -> None:
    sizes.append(sum(value.nbytes for value in (*inputs, output) if isinstance(value, Tensor)))


class CostModel(Measurements):
    """Counts what the studies of a plan need on another machine, each kind once; nothing is timed."""

    def __init__(self, machine: Machine) -> None:
        super().__init__("cpu")
        self.machine = machine

    def _estimated(self, operations: float) -> Estimated:
        return Estimated(self.machine.time(operations), operations=operations)

    def _cost(self, split: ImageSplit, backbone: Backbone, precision: PrecisionName = "float32") -> NetworkCost:
        key = ("cost", network_key(backbone), split.images.shape[1:], precision)
        four = partial(four_inputs, backbone, split, "cpu")
        return self._once(key, lambda: network_cost(backbone.network, four(), precision=precision))

    def image(self, view: View, backbone: Backbone) -> Estimated:
        """Operations to embed one image of a view, and the memory of a batch; augmentation is not counted."""
        cost = self._cost(view.split, backbone)
        memory = 2 * _EMBEDDED_AT_ONCE * cost.embedding + training_bytes(backbone.network) / 4
        return replace(self._estimated(cost.forward), memory=int(memory))

    def training(
        self, split: ImageSplit, backbone: Backbone, recipe: Recipe, *, is_base_stage: bool = True
    ) -> TrainingNeeds:
        """What a training takes, with one more forward pass where gradients are cached; see `Measurements.training`."""
        cost, network = self._cost(split, backbone, recipe.precision), backbone.network
        batch, weights = recipe.images_per_step(len(split)), training_bytes(network)
        step_memory = StepMemory(recipe.views * cost.kept, weights, self.machine.memory, "that device", recipe.views)
        if is_base_stage and self.machine.memory is not None and batch_norms(network):  # the margin of micro-batches
            usable = int(SHARE_OF_MEMORY * max(0, self.machine.memory - weights))
            step_memory = replace(step_memory, free=usable)
        micro_batch, problem = micro_batch_or_problem(
            backbone, step_memory, batch, least=recipe.least_images_at_once, is_base_stage=is_base_stage
        )
        operations = recipe.views * cost.training
        if recipe.objective == "distillation":
            operations += recipe.views * cost.forward
        if micro_batch < batch and LOSSES[recipe.loss].facts.get("is_contrastive", True):
            operations += recipe.views * cost.forward
        memory = int(micro_batch * step_memory.per_image) + weights
        return TrainingNeeds(self._estimated(operations), 0, memory, problem, micro_batch)

    def method(
        self, resolved: ResolvedStudy, backbone: Backbone, adaptation: Adaptation
    ) -> tuple[list[View], Estimated, list[ChunkTime]]:
        """The embeddings that a method needs, nothing to get ready with them, and the operations of each protocol."""
        key = self._key_of_method(resolved, backbone, adaptation)
        return self._once(key, lambda: self._counted_method(resolved, backbone, adaptation))

    def _counted_method(
        self, resolved: ResolvedStudy, backbone: Backbone, adaptation: Adaptation
    ) -> tuple[list[View], Estimated, list[ChunkTime]]:
        method = as_finetune(adaptation, backbone) if isinstance(adaptation, Finetune | MAML) else None
        if method is not None and not method.trains_on_embeddings:
            fine_tuning = _FineTuning(method, backbone, resolved.images)
            return [], Estimated(None), [self._of_episodes(fine_tuning, protocol) for protocol in resolved.protocols]
        largest = max(protocol.shot + protocol.query for protocol in resolved.protocols)
        builder = MeasuredBuilder(
            replace(resolved, dataset=_cut(resolved.dataset, largest)), backbone, LocalEngine("cpu"), SILENT
        )
        worker = builder.worker_factory(adaptation)()
        times = []
        for protocol in resolved.protocols:
            episodes = min(_COUNTED_EPISODES, protocol.episodes)
            with FlopCounterMode(display=False) as operations:
                worker(Chunk(protocol, 0, np.arange(episodes), episodes))
            estimated = self._estimated(operations.get_total_flops() / episodes)
            times.append(ChunkTime(estimated, min(resolved.study.chunk or worker.chunk(protocol), protocol.episodes)))
        views = [replace(view, split=resolved.dataset.split(view.split.name)) for view in builder.views]
        return views, Estimated(None), times

    def _of_episodes(self, fine_tuning: _FineTuning, protocol: Protocol) -> ChunkTime:
        """One episode of a protocol; raises StudyError if it does not fit into memory."""
        operations, memory = fine_tuning.episode(protocol)
        at_once = MOST_AT_ONCE
        if self.machine.memory is not None:
            at_once = min(at_once, int(SHARE_FOR_EPISODES * self.machine.memory / memory))
        if at_once < 1:
            raise StudyError(
                f"one {protocol.way}-way {protocol.shot}-shot episode needs about {bytes_text(memory)}. Use "
                "--tune last:N, --precision bf16, a smaller --image-size, or --set batch_size=N."
            )
        at_once = min(at_once, protocol.episodes)
        estimated = replace(self._estimated(operations), memory=int(at_once * memory))
        return ChunkTime(estimated, at_once * max(1, STORED_AT_ONCE // at_once))


def _cut(dataset: Dataset, per_class: int) -> Dataset:
    """The first images of every class of a dataset, for methods whose operations depend on episodes alone."""

    def cut(split: ImageSplit) -> ImageSplit:
        sizes = tuple(min(size, per_class) for size in split.class_sizes)
        rows = np.concatenate([start + np.arange(size) for start, size in zip(split.offsets, sizes, strict=False)])
        fingerprint = f"{split.fingerprint}, {per_class} of each class"  # whose embeddings are in no cache
        return replace(split, images=split.images[rows], class_sizes=sizes, image_names=None, fingerprint=fingerprint)

    return replace(dataset, splits={name: cut(split) for name, split in dataset.splits.items()})


class _FineTuning:
    """Counts fine-tuning: steps on one image and on two, in two views each, give the cost of each further image."""

    def __init__(self, method: Finetune, backbone: Backbone, split: ImageSplit) -> None:
        if method.start == "trained":  # for another way than counted here; the first weights cost nothing
            method = replace(method, start="zero", learning_rate=method.highest_rate)
        self.method = method
        two = four_inputs(backbone, split, "cpu")[:2]
        self.parts = network_parts(backbone.network.eval(), method, two, base_head_for(method, backbone))
        with no_trials():
            trainer = EpisodeTrainer(self.parts, method, episodes=1, way=2, shot=1)
        self._step = _line(trainer.try_step, partial(bytes_per_episode, trainer), self._inputs)
        self._query = (0.0, 0.0)
        if method.sees_queries:

            def memory(queries: Tensor) -> float:
                return queries.nbytes + 2.0 * kept_bytes(partial(trainer.try_query_step, queries))

            self._query = _line(trainer.try_query_step, memory, self._inputs)[:2]
        with torch.no_grad():
            self._first = 0.0 if self.parts.first is None else _operations(partial(self.parts.first, two)) / 2
            self._rest = _operations(partial(self.parts.rest, self.parts.sample)) / len(self.parts.sample)

    def _inputs(self, count: int) -> Tensor:
        image = self.parts.sample[:1]
        return image.expand(count, *image.shape[1:]).unsqueeze(0)

    def episode(self, protocol: Protocol) -> tuple[float, float]:
        """Operations and bytes of one episode."""
        method, images, queries = self.method, protocol.way * protocol.shot, protocol.way * protocol.query
        steps, per_epoch = method.steps(images), method.steps_per_epoch(images)
        views = 2 * -(-images // per_epoch)
        by_view, bytes_by_view, held = self._step
        in_front = method.fixed_views * images if method.fixed_views else steps * views
        operations = self._first * (images + queries + in_front) + self._rest * (images + queries)
        operations += steps * views * by_view
        memory = held + views * bytes_by_view
        if method.sees_queries:
            operations += method.epochs * queries * self._query[0]
            memory = max(memory, held + min(queries, 2 * method.batch_size) * self._query[1])
        sample = self.parts.sample[:1]
        return operations, memory + method.fixed_views * images * sample.nbytes


def _line(
    step: Callable[[Tensor], None], memory: Callable[[Tensor], float], inputs: Callable[[int], Tensor]
) -> tuple[float, float, float]:
    """Operations and bytes of each further input, and bytes without inputs; measured on two and on four."""
    with torch.enable_grad():
        operations = [_operations(partial(step, inputs(count))) for count in (2, 4)]
        sizes = [memory(inputs(count)) for count in (2, 4)]
    per_input = (sizes[1] - sizes[0]) / 2
    return (operations[1] - operations[0]) / 2, per_input, sizes[0] - 2 * per_input


def _operations(run: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())

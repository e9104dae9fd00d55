"""Fine-tune a backbone on many support sets at once, and classify their queries.

The loss is summed over the episodes and the weights are stacked, so one backward pass gives each episode its own
gradient and nothing of another's. Transductive fine-tuning (Dhillon et al., 2020) ends every epoch with one more
update, which lowers the mean Shannon entropy of the predictions for the queries, with the same optimiser.

On a GPU a training step is recorded once as a CUDA graph and replayed, without a hundred launches per step. Everything
that changes from step to step (inputs, step number, learning rate) lies in tensors that keep their place.
Random numbers are functions of the step number, so a replay draws new ones. A step that cannot be captured, because it
waits for the device or for another reason, runs without a graph.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, normalize

from fewshot_bench.backbones.task_head import BACKBONE
from fewshot_bench.devices import is_out_of_memory
from fewshot_bench.errors import StudyError
from fewshot_bench.finetuning.episode_tasks import FOR_DROPOUT, EpisodeTask, order_of_images
from fewshot_bench.finetuning.frozen_prefix import NetworkParts
from fewshot_bench.finetuning.head import (
    StackedBaseHead,
    StackedHead,
    dropped,
    has_batch_norm,
    use_batch_statistics,
    use_statistics_of,
)
from fewshot_bench.finetuning.recipe import (
    EpisodeRecipe,
    learning_rate,
    reset_optimizer,
    set_learning_rate,
    stacked_optimizer,
)
from fewshot_bench.finetuning.stacking import TrainingStep, stack_network
from fewshot_bench.losses import extra_settings, loss_function, reading_of
from fewshot_bench.training.randomness import keyed_uniform

Step = Callable[[Tensor, Tensor | None, Tensor, Tensor], Tensor]
"""Inputs [E, 2B, ...], chosen images [E, B] or None, keys [E] and the number of the step to the losses, [E]."""

Capture = Callable[[Callable[[], Tensor]], Callable[[], Tensor]]
"""From something to run to something that runs it again; raises CaptureError where that is impossible."""

_LOG = logging.getLogger(__name__)
_WARM_UP_STEPS = 3


class CaptureError(Exception):
    """A step cannot be captured as a CUDA graph."""


class ReplayedStep:
    """A step whose arguments are copied into tensors that stay in their place."""

    def __init__(self, step: Step, inputs: Tensor, chosen: Tensor | None, keys: Tensor, capture: Capture) -> None:
        """Record a step by running it a few times; weights and optimiser must be reset afterwards.

        Args:
            step: what to record.
            inputs: of the shape that all steps have, as `chosen` and `keys` are.
            chosen: None if it is None in all steps.
            keys: of the episodes.
            capture: `cuda_graph`, or something that behaves like it.
        """
        self._inputs, self._chosen, self._keys = (
            inputs.clone(),
            None if chosen is None else chosen.clone(),
            keys.clone(),
        )
        self._number = torch.zeros((), dtype=torch.int64, device=keys.device)
        self._replay = capture(lambda: step(self._inputs, self._chosen, self._keys, self._number))

    def __call__(self, inputs: Tensor, chosen: Tensor | None, keys: Tensor, number: int) -> Tensor:
        """Run the step on other arguments; the losses, [E]."""
        self._inputs.copy_(inputs)
        self._keys.copy_(keys)
        self._number.fill_(number)
        if self._chosen is not None and chosen is not None:
            self._chosen.copy_(chosen)
        return self._replay().clone()

    def fits(self, inputs: Tensor) -> bool:
        """Whether arguments of that shape can be replayed."""
        return inputs.shape == self._inputs.shape


def cuda_graph(run: Callable[[], Tensor], device: torch.device) -> Callable[[], Tensor]:
    """Capture work on a CUDA device, which need not be the current one, after a few runs on the same side stream.

    Raises:
        CaptureError: the work cannot be captured.
        torch.OutOfMemoryError: of the runs or the capture.
    """
    before, side = torch.cuda.current_stream(device), torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch
    kind: type[Exception] = CaptureError
    reason = ""  # in words: an error would hold the tensors of the step
    # Makes the device current; afterwards its stream is this again, which torch forgets where a capture fails.
    with torch.cuda.stream(before):
        graph = torch.cuda.CUDAGraph()
        side.wait_stream(before)
        with torch.cuda.stream(side):
            for _ in range(_WARM_UP_STEPS):
                run()
        before.wait_stream(side)
        try:
            with torch.cuda.graph(graph, stream=side):  # its default stream may belong to another device
                try:
                    losses = run()
                except Exception as error:  # a plug-in's is an error of its own kind
                    kind = torch.OutOfMemoryError if is_out_of_memory(error) else CaptureError
                    reason = str(error) or type(error).__name__
                    raise
        except Exception as error:  # the end of a failed capture may raise another
            reason = reason or str(error) or type(error).__name__
    if reason:
        raise kind(reason.partition("\n")[0])

    def replay() -> Tensor:
        graph.replay()
        return losses

    return replay


@cache
def _tell_once(reason: str) -> None:
    _LOG.warning("note: fine-tuning steps run one by one, slower than as a CUDA graph: %s", reason)


class EarlyStopping:
    """Keeps the weights of each episode from when its training loss stopped falling.

    All episodes train on, so that the device is never waited for.
    """

    def __init__(self, patience: int, weights: Mapping[str, Tensor]) -> None:
        """Watch stacked weights, views [E, *shape]; an episode stops after `patience` epochs without a lower loss."""
        self._patience, self._weights = patience, weights
        self._kept = {name: weight.detach().clone() for name, weight in weights.items()}
        first = next(iter(weights.values()))
        self._lowest = torch.full((len(first),), torch.inf, device=first.device)
        self._waited = torch.zeros(len(first), dtype=torch.int64, device=first.device)
        self.has_stopped = torch.zeros(len(first), dtype=torch.bool, device=first.device)

    @torch.no_grad()
    def after_epoch(self, losses: Tensor) -> None:
        """Take the mean training loss of each episode, [E]."""
        self._waited = torch.where(losses < self._lowest, 0, self._waited + 1)
        self._lowest = torch.minimum(self._lowest, losses)
        stops = (self._waited >= self._patience) & ~self.has_stopped
        self._choose(stops, self._weights, into=self._kept)
        self.has_stopped |= stops

    @torch.no_grad()
    def finish(self) -> None:
        """Restore the kept weights of the episodes that stopped."""
        self._choose(self.has_stopped, self._kept, into=self._weights)

    @staticmethod
    def _choose(episodes: Tensor, source: Mapping[str, Tensor], into: Mapping[str, Tensor]) -> None:
        for name, weight in into.items():
            mask = episodes.view(-1, *[1] * (weight.ndim - 1))
            weight.copy_(torch.where(mask, source[name], weight))


@dataclass(frozen=True, eq=False)
class Adapted:
    """The result of fine-tuning some episodes.

    Attributes:
        logits: of the queries, [E, M, N].
        losses: of every step on the support set, [steps, E].
        weights: of backbone and heads after training, by name, [E, *shape]; the next episodes overwrite them.
    """

    logits: Tensor
    losses: Tensor
    weights: dict[str, Tensor] = field(repr=False)


class EpisodeTrainer:
    """Trains E episodes of one size at a time."""

    def __init__(
        self,
        parts: NetworkParts,
        recipe: EpisodeRecipe,
        *,
        episodes: int,
        way: int,
        shot: int,
        layout: str | None = None,
    ) -> None:
        """Allocate the weights of all episodes.

        Args:
            parts: the backbone.
            recipe: how to train.
            episodes: E.
            way: N.
            shot: K.
            layout: how the episodes lie in memory; by default the fastest for the network, see `stack_network`.

        Raises:
            StudyError: the network cannot be stacked, or not with this kind of batch normalisation.
        """
        self.recipe, self.way, self.shot, self.device = recipe, way, shot, parts.sample.device
        if (parts.task_head is None) != (recipe.start != "trained"):
            raise StudyError("start=trained needs the head of a training by gradient-based meta-learning.")
        if parts.task_head is not None and parts.task_head.way != way:
            raise StudyError(
                f"the head was trained for {parts.task_head.way}-way tasks, and these are {way}-way. "
                f"Use --way {parts.task_head.way}."
            )
        self._normalises_batches = recipe.bn != "frozen" and has_batch_norm(parts.rest)
        has_choice = not self._normalises_batches and recipe.steps(way * shot) > 0
        step = TrainingStep(self._views, self._autocast) if has_choice else None
        self.stack = stack_network(parts.rest, parts.tuned, episodes, parts.sample, layout=layout, step=step)
        if self._normalises_batches and self.stack.layout != "channels":
            raise StudyError(
                f"--bn {recipe.bn} needs a network of convolutions, whose episodes lie side by side, and "
                f"{type(parts.rest).__name__} is not one. Use --bn frozen."
            )
        self._initial, self._sample, self._is_prepared = parts.initial, parts.sample, False
        self.head = StackedHead(episodes, way, parts.feature_size, like=parts.sample)
        self.base_head = None
        if parts.base_head is not None:
            self.base_head = StackedBaseHead(parts.base_head, parts.tuned_of_base_head, episodes, like=parts.sample)
        trained = {**self.stack.trainable, **self._trained_heads}
        decayed = frozenset(name for name, first in self._initial.items() if first.ndim > 1)
        decayed |= trained.keys() if recipe.decays == "all" else {"base_head.weight", "head.weight"}
        self.optimizer = stacked_optimizer(recipe, trained, decayed, self.device)
        self._task_head = parts.task_head
        self._rates: list[tuple[Tensor, Tensor]] = []
        if recipe.learning_rate is None:
            self._rates = self._trained_rates(trained, "network." if parts.first is not None else "")
        self._loss = loss_function(recipe.loss)
        self._capture: Capture | None = None
        if self.device.type == "cuda":
            self._capture = partial(cuda_graph, device=self.device)
        self._replayed: ReplayedStep | None = None
        self._replayed_queries: ReplayedStep | None = None

    @property
    def weights(self) -> dict[str, Tensor]:
        """All trained weights, as views [E, *shape]."""
        return {**{name: self.stack.weights(name) for name in self._initial}, **self._trained_heads}

    def _trained_rates(self, trained: Mapping[str, Tensor], prefix: str) -> list[tuple[Tensor, Tensor]]:
        """Each trained weight, stacked in its layout, and the learning rate that the task head has for it."""
        assert self._task_head is not None
        names = {name: BACKBONE + name.removeprefix(prefix) for name in self._initial}
        if not set(names.values()) <= set(self._task_head.rates):
            raise StudyError("the head was trained to move alone, so nothing else has a rate. Use --tune head.")
        return [(weight, self._task_head.rates[names.get(name, name)].to(weight)) for name, weight in trained.items()]

    @property
    def _trained_heads(self) -> dict[str, Tensor]:
        base = {} if self.base_head is None else self.base_head.trainable
        own = {"head.weight": self.head.weight, "head.bias": self.head.bias}
        return {**{f"base_head.{name}": weight for name, weight in base.items()}, **own}

    def adapt(self, task: EpisodeTask) -> Adapted:
        """Train on the support sets and classify the queries.

        Args:
            task: E episodes of the size that the trainer was made for.

        Raises:
            StudyError: a loss or a score is not finite.
        """
        with torch.no_grad():
            queries = task.query(slice(None)) if self.recipe.sees_queries else None
        self.prepare()
        with torch.enable_grad():
            self._record_step(task, queries)
            self._begin(task)
            losses = self._train(task, queries)
        with torch.no_grad():
            logits = self._classify(task, queries)
        # The losses of an episode after it stopped early do not matter.
        self._refuse_divergence(losses[:0] if self.recipe.patience else losses, logits)
        return Adapted(logits, losses, self.weights)

    def prepare(self) -> None:
        """Choose how layers compute; only the first call does something."""
        if self._is_prepared or not self.recipe.steps(self.way * self.shot):
            return
        if self._normalises_batches:
            use_batch_statistics(self.stack.module)
        shape = self._sample.shape[1:]
        with self._autocast():
            self.stack.prepare(self._sample[:1].expand(self._views, *shape).expand(self.stack.episodes, -1, *shape))
        self._is_prepared = True

    def try_step(self, inputs: Tensor) -> None:
        """Run one step on inputs [E, 2B, ...] to measure it."""
        images = inputs.shape[1] // 2
        chosen = torch.arange(images, device=self.device).expand(len(inputs), -1) % (self.way * self.shot)
        self._step(inputs, chosen, torch.zeros(len(inputs), dtype=torch.int64, device=self.device), 0)

    def try_query_step(self, queries: Tensor) -> None:
        """Run one step on the queries [E, M, ...] to measure it."""
        self._query_step(queries, None, torch.zeros(len(queries), dtype=torch.int64, device=self.device), 0)

    @property
    def _views(self) -> int:
        """Images that each episode sees in a step, 2B."""
        images = self.way * self.shot
        return 2 * -(-images // self.recipe.steps_per_epoch(images))

    def _record_step(self, task: EpisodeTask, queries: Tensor | None) -> None:
        """Record the steps of a task, if this device replays steps and has none recorded yet."""
        images = self.way * self.shot
        if self._capture is None or not self.recipe.steps(images):
            return
        if queries is not None and (self._replayed_queries is None or not self._replayed_queries.fits(queries)):
            self._begin(task)
            self._replayed_queries = self._recorded(self._query_step, queries, None, task.keys.on_device)
        chosen = self._chosen(task, 0, self.recipe.steps_per_epoch(images))
        inputs = task.views.at(0, chosen)
        if self._replayed is None or not self._replayed.fits(inputs):
            self._begin(task)
            self._replayed = self._recorded(self._step, inputs, chosen, task.keys.on_device)

    def _recorded(self, step: Step, inputs: Tensor, chosen: Tensor | None, keys: Tensor) -> ReplayedStep | None:
        """The step as a graph; None if that is impossible, and then for all later steps of this trainer."""
        if self._capture is None:
            return None
        try:
            return ReplayedStep(step, inputs, chosen, keys, self._capture)
        except (CaptureError, torch.OutOfMemoryError) as error:
            # A graph has memory of its own: half as many episodes may fit, but one has to do without.
            if is_out_of_memory(error) and len(inputs) > 1:
                raise
            _tell_once(str(error))
        self._capture = self._replayed = self._replayed_queries = None
        self.optimizer.zero_grad(set_to_none=True)  # gradients may lie in memory of the graph
        return None

    def _begin(self, task: EpisodeTask) -> None:
        self.stack.load(self._initial)
        if self.base_head is not None:
            self.base_head.load()
        reset_optimizer(self.optimizer)
        if self._normalises_batches:
            use_batch_statistics(self.stack.module)
        if self._task_head is not None:
            self.head.load(self._task_head)
            return
        with torch.no_grad():
            plain = self._outputs(self._embed(task.support))
            plain = plain.view(len(plain), self.way, self.shot, -1)
            self.head.start(self.recipe.start, plain, self.recipe.scale)

    def _train(self, task: EpisodeTask, queries: Tensor | None) -> Tensor:
        recipe, images = self.recipe, self.way * self.shot
        per_epoch, steps = recipe.steps_per_epoch(images), recipe.steps(images)
        stopping = EarlyStopping(recipe.patience, self.weights) if recipe.patience else None
        losses: list[Tensor] = []
        for step in range(steps):
            chosen = self._chosen(task, step, per_epoch)
            inputs = task.views.at(step, chosen)
            set_learning_rate(self.optimizer, learning_rate(recipe, step, steps, per_epoch))
            run = self._step if self._replayed is None else self._replayed
            losses.append(run(inputs, chosen, task.keys.on_device, step))
            if (step + 1) % per_epoch:
                continue
            if queries is not None:
                after = self._query_step if self._replayed_queries is None else self._replayed_queries
                after(queries, None, task.keys.on_device, step)
            if stopping is not None:
                stopping.after_epoch(torch.stack(losses[-per_epoch:]).mean(dim=0))
        if stopping is not None:
            stopping.finish()
        return torch.stack(losses) if losses else task.support.new_zeros(0, len(task.support))

    def _chosen(self, task: EpisodeTask, step: int, per_epoch: int) -> Tensor | None:
        """Which support images a step sees, int64 [E, B]; None for all of them.

        Every image is seen in every epoch. Batches have one size, so the last one may begin the order again.
        """
        if per_epoch == 1:
            return None
        images = self.way * self.shot
        size = -(-images // per_epoch)
        order = order_of_images(task.keys.on_device, step // per_epoch, images)
        places = torch.arange(size, device=order.device) + (step % per_epoch) * size
        return order[:, places % images]

    def _step(self, inputs: Tensor, chosen: Tensor | None, keys: Tensor, step: int | Tensor) -> Tensor:
        """One step of all episodes; the loss of each, [E]."""
        images = torch.arange(self.way * self.shot, device=self.device) if chosen is None else chosen
        images = torch.cat([images, images], dim=-1)
        embeddings = self._embed(inputs)
        seen = self._features(embeddings)
        if self.recipe.dropout:
            count = seen.shape[1] * seen.shape[2]
            seen = dropped(seen, keyed_uniform(keys, (step, FOR_DROPOUT), count), self.recipe.dropout)
        smoothing = {"label_smoothing": self.recipe.label_smoothing} if self.recipe.label_smoothing else {}
        losses = self._loss(
            self.head(seen),
            embeddings,
            images // self.shot,
            images,
            lambda_=self.recipe.lambda_,
            tau=self.recipe.tau,
            reading=reading_of(self.recipe.loss, self.recipe.reading),
            **smoothing,
            **extra_settings(self.recipe.loss, **self.recipe.contrast),
        )
        torch.autograd.backward(losses.sum())
        self._update()
        return losses.detach()

    def _update(self) -> None:
        """Move the weights, and free the gradients: a graph allocates its own."""
        for weight, rate in self._rates:
            assert weight.grad is not None
            own = weight.grad.view(self.stack.episodes, *rate.shape) if rate.ndim else weight.grad
            own.mul_(rate)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def _query_step(self, queries: Tensor, chosen: Tensor | None, keys: Tensor, step: int | Tensor) -> Tensor:
        """One step on the queries of all episodes [E, M, ...], which draws no random numbers; their entropies, [E].

        The queries go through the network in parts where a batch is smaller than their number. Their entropy is a mean,
        so the gradients of the parts add up. Batch normalisation over a batch needs them together.
        """
        del chosen, keys, step
        at_once = queries.shape[1] if self._normalises_batches else 2 * self.recipe.batch_size
        entropies = queries.new_zeros(len(queries), dtype=self.head.weight.dtype)
        for part in torch.split(queries, at_once, dim=1):
            logs = log_softmax(self.head(self._features(self._embed(part))), dim=-1)
            share = -(logs.exp() * logs).sum(dim=(1, 2)) / queries.shape[1]
            torch.autograd.backward((self.recipe.query_entropy * share).sum())
            entropies += share.detach()
        self._update()
        return entropies

    def _outputs(self, embeddings: Tensor) -> Tensor:
        """Embeddings, or logits of the base classes, before normalisation, [E, B, D]."""
        if self.base_head is None:
            return embeddings
        logits = self.base_head(embeddings)
        return logits.relu() if self.recipe.rectifies else logits

    def _features(self, embeddings: Tensor) -> Tensor:
        """What the heads see, [E, B, D]."""
        outputs = self._outputs(embeddings)
        return normalize(outputs, dim=-1) if self.recipe.start == "support" else outputs

    def _embed(self, inputs: Tensor) -> Tensor:
        """Embeddings [E, B, D], in the dtype of the weights."""
        with self._autocast():
            embeddings = self.stack(inputs)
        return embeddings.to(self.head.weight.dtype)

    def _autocast(self) -> torch.autocast:
        """Half precision for the network, if the recipe asks for it."""
        is_half = self.recipe.precision == "bf16"
        # A recorded step cannot use autocast's cache of weights.
        return torch.autocast(self.device.type, torch.bfloat16, enabled=is_half, cache_enabled=False)

    def _classify(self, task: EpisodeTask, queries: Tensor | None) -> Tensor:
        """Logits of the queries, [E, M, N]; only transductive batch normalisation makes them depend on each other."""
        if self._normalises_batches and self.recipe.bn == "support":
            use_statistics_of(self.stack.module, lambda: self._embed(task.support))
        is_transductive = self._normalises_batches and self.recipe.bn == "transductive"
        at_once = task.queries if is_transductive else max(1, 2 * min(self.recipe.batch_size, self.way * self.shot))
        parts = [slice(start, start + at_once) for start in range(0, task.queries, at_once)]
        inputs = (task.query(part) if queries is None else queries[:, part] for part in parts)
        return torch.cat([self.head(self._features(self._embed(part))) for part in inputs], dim=1)

    @staticmethod
    def _refuse_divergence(losses: Tensor, logits: Tensor) -> None:
        is_finite = torch.isfinite(losses).all(dim=0) & torch.isfinite(logits).all(dim=(1, 2))
        if not bool(is_finite.all()):
            raise StudyError(
                f"fine-tuning of {int((~is_finite).sum())} of {len(is_finite)} episodes gave a loss or a score that is "
                "not finite. Use a smaller learning rate, or --precision float32."
            )

"""Learners of learn2learn (`MAML`, `MetaSGD`, or a head of theirs on frozen features) on our episodes.

A learner is any `torch.nn.Module` that is called with images, and has `clone()` and `adapt(loss)`. It is evaluated as
the example scripts of learn2learn do: clone, some steps on the support set, one pass over all queries. These scripts
never call `eval()`, so their batch norms normalise queries by the batch of queries: `query_use.py` finds that out.
"""

from __future__ import annotations

import copy
import hashlib
import platform
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from fewshot_bench._io.tensors import tensors_digest
from fewshot_bench._io.versions import installed_version, installed_versions
from fewshot_bench.code_identity import code_of
from fewshot_bench.datasets.dataset import ImageSplit
from fewshot_bench.engine.classify import outcome_card, outcome_frame, together
from fewshot_bench.episodes import Episodes
from fewshot_bench.errors import PluginError, StudyError
from fewshot_bench.evaluation import Evaluation
from fewshot_bench.evaluation.evaluation import check_storable
from fewshot_bench.evaluation.query_use import QueryUse, use_of_queries
from fewshot_bench.interop.learn2learn.tasksets import Transform, as_tensor, check_split
from fewshot_bench.outcomes import Cell, MethodCard, Outcomes, OutcomeStore
from fewshot_bench.outcomes.packing import position_type
from fewshot_bench.outcomes.schema import NAME_RULE, is_name
from fewshot_bench.plugins import described, plugin_errors
from fewshot_bench.progress import SILENT, Progress

_STORED_TOGETHER = 50
_LIBRARY = "learn2learn"

Loss = Callable[[Tensor, Tensor], Tensor]


def evaluate(
    learner: nn.Module,
    episodes: Episodes | Sequence[Episodes],
    split: ImageSplit,
    *,
    name: str,
    steps: int,
    features: nn.Module | None = None,
    loss: Loss = cross_entropy,
    transform: Transform | None = None,
    is_transductive: bool | None = None,
    device: str = "cpu",
    store: OutcomeStore | None = None,
    progress: Progress = SILENT,
) -> Evaluation:
    """Adapt a learner to every episode, and classify its queries.

    The learner and its mode do not change. Episode i never depends on the others: random numbers, such
    as those of dropout, are seeded by its number.

    Args:
        learner: anything with `clone()` and `adapt(loss)`, such as `learn2learn.algorithms.MAML`.
        episodes: of `sample_episodes`, of each shape from `sample_by_shape`, or of `record_taskset`.
        split: that the episodes are of.
        name: of the method.
        steps: of adaptation on each support set.
        features: the frozen part of ANIL, below the learner; it gets the support set and the queries in one batch, as
            in the example script.
        loss: of scores [N * K, N] and positions of classes [N * K].
        transform: of a batch of images, float32 [B, C, H, W] in [0, 1].
        is_transductive: whether queries inform each other's predictions; found out by default.
        device: a torch device.
        store: where outcomes are kept, and looked for first; a run that was stopped continues there.
        progress: shown one unit per episode.

    Raises:
        EpisodeError: the episodes are not of the split, or are of several protocols.
        StudyError: the name is not one.
        PluginError: the learner raised, gave other scores than [M, N], is random, or is said to be inductive and its
            predictions depend on other queries.
        CodeError: the code of the method has no file, so that stored outcomes could not be told apart.
    """
    if not is_name(name):
        raise StudyError(f"{name[:40]!r} is not a name for the method, which is {NAME_RULE}.")
    groups = [episodes] if isinstance(episodes, Episodes) else list(episodes)
    for group in groups:
        check_split(group, split)
    evaluation = _Evaluation.of(learner, features, split, steps, loss, transform, device)
    queries = use_of_queries(name, evaluation.modules, evaluation.scores, groups, is_transductive)
    cell = Cell(
        evaluation.card(name, queries),
        outcome_card(groups),
        {**installed_versions(), **_library_version(learner)},
        class_sizes=split.class_sizes,
        provenance={
            "platform": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "queries": queries.reason,
        },
        class_names=split.class_names,
    )
    stored = _stored(store, cell)
    frames = [_wanted(stored, groups)] if len(stored) else []
    missing = [_without(group, stored) for group in groups]
    with progress.step(name, sum(map(len, missing)), unit="episodes") as step:
        for group in missing:
            for start in range(0, len(group), _STORED_TOGETHER):
                part = group[start : start + _STORED_TOGETHER]
                begin = time.perf_counter()
                predictions = np.stack([evaluation.predictions(part, row) for row in range(len(part))])
                frame = outcome_frame(part, predictions, (time.perf_counter() - begin) / len(part))
                if store is not None:
                    store.append_frame(cell, frame)
                frames.append(frame)
                step.advance(len(part))
    return Evaluation(Outcomes(cell, together(frames)))


@dataclass(frozen=True)
class _Evaluation:
    """A learner, and what is done with each episode."""

    learner: Any
    features: nn.Module | None
    split: ImageSplit
    steps: int
    loss: Loss
    transform: Transform | None
    device: torch.device

    @classmethod
    def of(
        cls,
        learner: nn.Module,
        features: nn.Module | None,
        split: ImageSplit,
        steps: int,
        loss: Loss,
        transform: Transform | None,
        device: str,
    ) -> _Evaluation:
        """Copies of a learner and its features, on a device; the user's own stay as they are.

        Raises:
            PluginError: it is not a learner, or cannot be copied.
        """
        lacking = [method for method in ("clone", "adapt") if not callable(getattr(learner, method, None))]
        if not isinstance(learner, nn.Module) or lacking:
            raise PluginError(
                f"{described(learner)} is not a learner: a torch.nn.Module with clone() and adapt(loss), such as "
                "learn2learn.algorithms.MAML."
            )
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
            raise PluginError(f"steps of adaptation should be a whole number of 0 or more, not {steps!r}.")
        try:
            copies = [None if part is None else copy.deepcopy(part) for part in (learner, features)]
        except Exception as error:  # a module may refuse to be copied in any way
            raise PluginError(
                f"{described(learner)} cannot be copied ({' '.join(str(error).split())}). Pass the learner itself, not "
                "a clone of it that was adapted."
            ) from error
        there = torch.device(device)
        own, frozen = (None if part is None else part.to(there) for part in copies)
        return cls(own, frozen, split, steps, loss, transform, there)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """The networks by their part in the method."""
        return {"learner": self.learner, **({} if self.features is None else {"features": self.features})}

    def scores(self, episodes: Episodes, row: int, queries: NDArray[np.int64], draw: int = 0) -> Tensor:
        """Scores of some queries of one episode, as positions in `Episodes.queries`, [m, N].

        Args:
            episodes: of one shape.
            row: of the episode.
            queries: in the order in which the learner gets them, [m].
            draw: of the random numbers.

        Raises:
            PluginError: see `evaluate`.
        """
        way, shot = episodes.way, episodes.shot
        seed = [episodes.run, int(episodes.numbers[row]), draw]
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), self._buffers_restored(), plugin_errors(self.learner):
            torch.manual_seed(int(np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]))
            support, query = self._inputs(episodes.support[row].reshape(-1), episodes.queries[row][queries])
            labels = torch.arange(way, device=self.device).repeat_interleave(shot)
            with torch.enable_grad():
                adapted = self.learner.clone()
                for _ in range(self.steps):
                    adapted.adapt(self.loss(adapted(support), labels))
            with torch.no_grad():
                scores: Any = adapted(query)
        if not isinstance(scores, Tensor) or list(scores.shape) != [len(queries), way]:
            raise PluginError(
                f"{type(self.learner).__name__} gave {described(scores)} for {len(queries)} queries; scores [M, N] = "
                f"[{len(queries)}, {way}] are expected. Does the network have an output for each class of an episode?"
            )
        if not bool(torch.isfinite(scores).all()):
            raise PluginError(
                f"{type(self.learner).__name__} gave scores that are not finite for episode "
                f"{int(episodes.numbers[row])} of run {episodes.run}. Is its learning rate too high?"
            )
        return scores.detach()

    @contextmanager
    def _buffers_restored(self) -> Iterator[None]:
        """Undo what an episode changes in running statistics: clones of learn2learn share those of the learner."""
        buffers = [buffer for module in self.modules.values() for buffer in module.buffers()]
        before = [buffer.clone() for buffer in buffers]
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)

    @torch.no_grad()
    def _inputs(self, support: NDArray[np.int32], queries: NDArray[np.int32]) -> tuple[Tensor, Tensor]:
        """What the learner gets of a support set and of queries, as images or as features."""
        images = as_tensor(self.split.images[np.concatenate([support, queries])]).to(self.device)
        inputs = images if self.transform is None else self.transform(images)
        inputs = inputs if self.features is None else self.features(inputs)
        return inputs[: len(support)], inputs[len(support) :]

    def predictions(self, episodes: Episodes, row: int) -> NDArray[Any]:
        """Position of the predicted class of every query of one episode, [M]."""
        scores = self.scores(episodes, row, np.arange(episodes.queries.shape[1]))
        return scores.argmax(dim=1).cpu().numpy().astype(position_type(episodes.protocol.way))

    def card(self, name: str, queries: QueryUse) -> MethodCard:
        """The description of the method: its weights, settings and code."""
        learner, network = self.learner, getattr(self.learner, "module", self.learner)
        tensors = {f"{part}.{key}": value for part, m in self.modules.items() for key, value in m.state_dict().items()}
        settings = {name: getattr(learner, name, None) for name in ("first_order", "allow_unused", "allow_nograd")}
        rate = getattr(learner, "lr", None)
        library = str(type(learner).__module__).partition(".")[0]
        return MethodCard(
            name,
            type(network if self.features is None else self.features).__name__,
            tensors_digest(tensors),
            f"{library}.{type(learner).__name__}",
            {
                "steps": self.steps,
                **({"learning_rate": float(rate)} if isinstance(rate, Real) else {}),
                **{name: value for name, value in settings.items() if isinstance(value, bool)},
                "loss": _callable_name(self.loss),
                "transform": _callable_name(self.transform),
                "network": {part: _text_digest(repr(module)) for part, module in self.modules.items()},
                "training_mode": {
                    "learner": _training_mode(network),
                    **({} if self.features is None else {"features": _training_mode(self.features)}),
                },
                **_library_version(learner),
            },
            queries.is_transductive,
            self._code(),
        )

    def _code(self) -> dict[str, Any]:
        """Records of the user's own code; learn2learn is known by its version."""
        classes = {type(part) for module in self.modules.values() for part in module.modules()}
        parts: dict[str, Any] = {
            f"{kind.__module__}:{kind.__qualname__}": kind for kind in classes if not _is_of_library(kind)
        }
        parts |= {"loss": self.loss} | ({} if self.transform is None else {"transform": self.transform})
        identities = {part: code_of(obj) for part, obj in sorted(parts.items())}
        return {part: identity.as_record() for part, identity in identities.items() if identity is not None}


def _library_version(learner: object) -> dict[str, str]:
    return {_LIBRARY: installed_version(_LIBRARY)} if any(map(_is_of_library, type(learner).__mro__)) else {}


def _is_of_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] == _LIBRARY


def _callable_name(function: object) -> str:
    """The name of a loss or a transform; modules and torchvision's transforms print their settings."""
    if function is None:
        return "none"
    name = getattr(function, "__qualname__", None)
    return _without_addresses(repr(function)) if name is None else f"{getattr(function, '__module__', '')}.{name}"


def _training_mode(module: nn.Module) -> bool | str:
    """Whether a network is in training mode; a digest of its parts' modes where they differ."""
    modes = {name: part.training for name, part in module.named_modules()}
    return module.training if len(set(modes.values())) == 1 else _text_digest(repr(modes))


def _text_digest(text: str) -> str:
    return hashlib.sha256(_without_addresses(text).encode()).hexdigest()[:16]


def _without_addresses(text: str) -> str:
    """The text of a printed object without its address in memory, which differs between processes."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", text)


def _stored(store: OutcomeStore | None, cell: Cell) -> pd.DataFrame:
    """The outcomes that a store has of a method; none without a store.

    Raises:
        CodeError: the method's code has no file, so another day's code would look the same.
    """
    if store is None:
        return pd.DataFrame()
    check_storable(cell)
    store.check_folder()
    return store.read(cell) if any(map(len, store.done(cell).values())) else pd.DataFrame()


def _is_stored(group: Episodes, stored: pd.DataFrame) -> NDArray[np.bool_]:
    if not len(stored):
        return np.zeros(len(group), np.bool_)
    return np.isin(group.numbers, stored["episode"][stored["run"] == group.run])


def _wanted(stored: pd.DataFrame, groups: Sequence[Episodes]) -> pd.DataFrame:
    """The stored rows of some episodes."""
    rows = [(stored["run"] == group.run) & stored["episode"].isin(group.numbers) for group in groups]
    return stored[np.logical_or.reduce(rows)]


def _without(group: Episodes, stored: pd.DataFrame) -> Episodes:
    return group[~_is_stored(group, stored)]

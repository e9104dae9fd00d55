"""What is found out about the methods of a study, and about what comes before them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.adapt import protocol_card
from fewshot_bench.episodes import Protocol
from fewshot_bench.outcomes import Cell, OutcomeStore
from fewshot_bench.progress import Step
from fewshot_bench.study.changed_code import changed_code
from fewshot_bench.study.chunk_queue import missing_episodes
from fewshot_bench.study.forecast import CellForecast, WorkForecast
from fewshot_bench.study.looking_ahead import Measurements, network_bytes
from fewshot_bench.study.measuring import NO_TIME
from fewshot_bench.study.networks_ahead import NetworkAhead
from fewshot_bench.study.pieces import is_failure, reason_of
from fewshot_bench.study.planned_methods import method_card
from fewshot_bench.study.stored_size import outcome_bytes
from fewshot_bench.study.study import Study
from fewshot_bench.study.timed_method import ChunkTime, View

_NO_IMAGES = "once its images are here"


class MethodsAhead:
    """The cells of methods, the work before them, and what keeps them from being run; each is told once.

    Attributes:
        cells: by task, name and network.
        work: by kind and what identifies it.
        problems: sentences, in the order in which they were found.
        notes: sentences that a user should hear, likewise.
        training_bytes: of memory, for the largest training.
    """

    def __init__(self, store: OutcomeStore, device: str) -> None:
        self._store, self._device, self._measured = store, device, Measurements(device)
        self.cells: dict[tuple[str, str, str], CellForecast] = {}
        self.work: dict[tuple[str, ...], WorkForecast] = {}
        self.problems: dict[str, None] = {}
        self.notes: dict[str, None] = {}
        self.training_bytes = 0

    def add_unseen(self, name: str, adaptation: Adaptation, protocols: Sequence[Protocol]) -> None:
        """Cells of a dataset that is not here.

        Args:
            name: of the method.
            adaptation: what it does.
            protocols: as many as the study asks for.
        """
        for protocol in protocols:
            episodes = protocol.runs * protocol.episodes
            task = protocol_card(protocol, "").task
            cell = CellForecast(task, name, episodes if episodes > 0 else None, None, _NO_IMAGES)
            self.cells[task, name, ""] = replace(cell, is_transductive=adaptation.is_transductive)

    def look_at_method(
        self,
        study: Study,
        dataset: Dataset,
        network: NetworkAhead,
        adaptation: Adaptation,
        name: str,
        protocols: list[Protocol],
    ) -> None:
        """Count what is stored of a method's cells, and time what is not.

        Args:
            study: that the method belongs to.
            dataset: its images.
            network: its backbone.
            adaptation: what it does.
            name: of the method.
            protocols: of the study.
        """
        stage = network.stage
        card = method_card(name, stage.backbone, stage.base, adaptation)
        cells = [Cell(card, protocol_card(protocol, dataset.fingerprint)) for protocol in protocols]
        self.notes |= dict.fromkeys(changed_code(self._store, cells))
        stored = [self._stored(cell, one, network) for cell, one in zip(cells, protocols, strict=True)]
        everything = [one.runs * one.episodes for one in protocols]
        left = [whole - (done or 0) for whole, done in zip(everything, stored, strict=True)]
        times: Sequence[ChunkTime | None] = [None] * len(protocols)
        if any(left):
            times = self._timed(study, dataset, network, adaptation, name, protocols)
        for cell, whole, done, rest, timed in zip(cells, everything, stored, left, times, strict=True):
            task, seconds, size = cell.protocol.task, NO_TIME if not rest else None, 0 if not rest else None
            if timed is not None:
                seconds, size = timed.per_episode.times(rest), outcome_bytes(cell, rest, timed.chunk)
            one = CellForecast(task, name, whole, done, network.unknown, seconds, size)
            self.cells[task, name, network.identity] = replace(one, is_transductive=adaptation.is_transductive)

    def _stored(self, cell: Cell, protocol: Protocol, network: NetworkAhead) -> int | None:
        if network.unknown:
            return None
        missing = sum(len(numbers) for numbers in missing_episodes(self._store, cell, protocol))
        return protocol.runs * protocol.episodes - missing

    def _timed(
        self,
        study: Study,
        dataset: Dataset,
        network: NetworkAhead,
        adaptation: Adaptation,
        name: str,
        protocols: list[Protocol],
    ) -> Sequence[ChunkTime | None]:
        """The times of a method, whose embeddings are noted; none where it cannot be tried."""
        backbone = network.stage.backbone
        try:
            views, ready, times = self._measured.method(study, dataset, backbone, adaptation, protocols)
            for view in views:
                self._look_at_view(view, network)
        except Exception as error:
            if not is_failure(error):
                raise
            self.problems[f"{name} could not be tried: {reason_of(error)}"] = None
            return [None] * len(protocols)
        self.work["ready", name, network.identity] = WorkForecast("preparing", name, 1, ready, 0, "all of it")
        return times

    def _look_at_view(self, view: View, network: NetworkAhead) -> None:
        backbone, split = network.stage.backbone, view.split
        if not network.unknown and view.is_kept(backbone, self._device):
            return
        seconds, timed = self._measured.image(view, backbone)
        stage = f"/{network.stage.base.stage}" if network.stage.base.stage else ""
        what = f"{split.dataset} {split.name} by {backbone.name}{stage}{', ' + view.name if view.name else ''}"
        self.work["view", network.identity, split.fingerprint, view.name] = WorkForecast(
            "embeddings",
            what,
            len(split),
            seconds.times(len(split)),
            4 * len(split) * backbone.embedding_size,
            f"{timed:,} images",
        )

    def look_at_training(self, network: NetworkAhead, dataset: Dataset, step: Step) -> None:
        """Time a few steps of a network's base stage, unless that has been done.

        Args:
            network: that would be trained.
            dataset: on the base split of this.
            step: told what is being timed.
        """
        recipe, backbone = network.stage.recipe, network.stage.backbone
        if recipe is None or not network.unknown:
            return
        base = dataset.base
        step.advance(0, f"training {backbone.name} with {recipe.loss}")
        needs = self._measured.training(base, backbone, recipe)
        self.training_bytes = max(self.training_bytes, needs.memory)
        batch = min(recipe.batch_size, len(base))
        self.work["training", network.identity] = WorkForecast(
            "training",
            f"{backbone.name} on {base.dataset} {base.name}: {network.stage.base.stage}",
            recipe.epochs * math.ceil(len(base) / batch),
            needs.per_image.times(recipe.epochs * len(base)),
            network_bytes(backbone),
            f"steps of {needs.timed:,} images" + (f", not of {batch:,}" if needs.timed < batch else ""),
        )
        if needs.problem:
            self.problems[needs.problem] = None

"""Base stages that train side by side: on a CPU, where each of them uses few of the cores.

The process that runs the studies takes the networks in their order. Helpers, which read the same studies, take those
that no process trains yet; whoever needs one meanwhile waits for it, as for any other process. A helper changes no bit,
since the number of threads belongs to the recipe. What a helper cannot train is tried by the first process in its turn,
which then says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from fewshot_bench.cache import unused
from fewshot_bench.datasets import Dataset
from fewshot_bench.devices import free_bytes
from fewshot_bench.engine.engine import Engine, LocalEngine
from fewshot_bench.errors import FewshotBenchError, show_traceback
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.study.base_stage import checkpoint_path, four_inputs
from fewshot_bench.study.networks import Network
from fewshot_bench.study.resolved import ResolvedStudy
from fewshot_bench.study.scheduler import is_failure
from fewshot_bench.training import Recipe, StepMemory

WORTH_A_PROCESS = 20_000
"""Views, below which a small network has learned from them before another process has imported everything."""
PROCESS_BYTES = 1 << 30
"""Of a process with everything imported and the images of a split in memory."""


@dataclass(frozen=True, eq=False)
class _BaseStage:
    """A base stage that is not in the cache.

    Attributes:
        network: to be trained.
        recipe: of its training.
        dataset: that has its split.
        path: of its checkpoint.
        bytes: that its training takes, with the process.
    """

    network: Network
    recipe: Recipe
    dataset: Dataset
    path: Path
    bytes: float

    @property
    def is_free(self) -> bool:
        """Whether no process trains it."""
        with unused(self.path) as is_unused:
            return is_unused

    @property
    def is_long(self) -> bool:
        """Whether it takes longer than a process takes to begin."""
        images = self.recipe.images_per_epoch(len(self.network.images(self.dataset)[0]))
        return self.recipe.epochs * self.recipe.views * images >= WORTH_A_PROCESS


def helpers_that_pay(studies: Sequence[ResolvedStudy], engine: Engine) -> int:
    """How many helpers to start beside this process, which trains too.

    As many as there are untrained base stages, cores (PyTorch's threads, which `OMP_NUM_THREADS` limits) and memory.
    None if one of them is trained on a GPU, by Ray, or on all cores.

    Args:
        studies: to be run.
        engine: that trains in this process.
    """
    if not isinstance(engine, LocalEngine) or engine.device != "cpu":
        return 0
    missing = _untrained(studies)
    threads = [stage.recipe.threads for stage in missing]
    if len(missing) < 2 or None in threads or not all(stage.is_long for stage in missing):
        return 0
    cores = torch.get_num_threads() // max(count for count in threads if count is not None)
    free = free_bytes(torch.device("cpu"))
    fitting = cores if free is None else int(free // max(stage.bytes for stage in missing))
    free_stages = sum(stage.is_free for stage in missing)
    own = int(missing[0].is_free)  # otherwise this process waits for it
    busy = len(missing) - free_stages + own
    return max(0, min(free_stages - own, cores - busy, fitting - own))


def train_ahead(studies: Sequence[ResolvedStudy], number: int, progress: Progress = SILENT) -> None:
    """Train, as a helper, the base stages that are neither trained nor being trained.

    Args:
        studies: that the first process runs.
        number: of this helper, from 1; it begins there among the base stages, so that helpers take different ones.
        progress: shown every step.
    """
    stages = _untrained(studies)
    first = number % max(1, len(stages))
    for stage in [*stages[first:], *stages[:first]]:
        if stage.path.is_file() or not stage.is_free:
            continue
        try:
            stage.network.trained(stage.dataset, LocalEngine("cpu"), progress)
        except Exception as error:
            if not is_failure(error):
                raise
            show_traceback(error)


def _untrained(studies: Sequence[ResolvedStudy]) -> list[_BaseStage]:
    """The base stages that are not in the cache, each once, in the order of the studies."""
    found: dict[Path, _BaseStage] = {}
    for study in studies:
        for network in study.networks:
            try:
                stage = _base_stage(network, study.dataset)
            except FewshotBenchError:  # such as a missing split, which is told in its turn
                continue
            if stage is not None and not stage.path.is_file():
                found.setdefault(stage.path, stage)
    return list(found.values())


def _base_stage(network: Network, dataset: Dataset) -> _BaseStage | None:
    recipe = network.recipe
    if recipe is None or network.checkpoint:
        return None
    backbone, (split, validation) = network.start(), network.images(dataset)
    four = four_inputs(backbone, split, "cpu")
    memory = StepMemory.measured(backbone.network, four, precision=recipe.precision, views=recipe.views)
    needed = PROCESS_BYTES + memory.weights + memory.per_image * recipe.images_per_step(len(split))
    return _BaseStage(network, recipe, dataset, checkpoint_path(backbone, split, recipe, validation), needed)

"""Trainings of one method: cells whose methods are the same but for the seed of the training on the base split.

Each training has a cell of its own. Reports show one row for the method, the mean over its trainings, and one below it
for each training; only methods are ranked, tested and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fewshot_bench.outcomes import Cell, MethodCard

_SEED = "seed="
_HEADS = ("base_head", "task_head")
"""Digests of what was trained with the network."""
_OF_ONE_TRAINING = ("seed", "epoch", "teacher_weights")
"""Of a base stage: the seed, and what follows from it: the epoch that a validation chose, and the weights of a teacher
that is trained with the same seed."""


def training_seed(method: MethodCard) -> int | None:
    """The seed of a method's training on the base split; None where nothing was trained there, or it is unknown."""
    base = method.hyper_parameters.get("base")
    seed = base.get("seed") if isinstance(base, Mapping) else None
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


def without_training_seed(method: MethodCard) -> MethodCard:
    """The method that a training is a replicate of: without its training seed and what follows from that.

    Two cells of one protocol are trainings of one method if and only if this gives equal cards. A method without a
    training seed is returned as it was given.
    """
    if training_seed(method) is None:
        return method
    base = {name: value for name, value in method.hyper_parameters["base"].items() if name not in _OF_ONE_TRAINING}
    kept: dict[str, Any] = {name: value for name, value in method.hyper_parameters.items() if name not in _HEADS}
    return replace(
        method, name=without_seed(method.name), weights="of several trainings", hyper_parameters={**kept, "base": base}
    )


def without_seed(name: str) -> str:
    """A method's name without its training seed; a seed of the adaptation, in the last stage, stays.

    >>> without_seed("conv4_32/base-ce@epochs=3,seed=1/finetune@seed=7")
    'conv4_32/base-ce@epochs=3/finetune@seed=7'
    """
    return _with_settings(name, lambda setting: "" if _is_seed(setting) else setting)


def _is_seed(setting: str) -> bool:
    return setting.startswith(_SEED) and setting.removeprefix(_SEED).removeprefix("-").isdecimal()


def _with_settings(name: str, change: Any) -> str:
    """A method's name with the settings of all stages but the last one changed; an empty one is left out."""
    *stages, last = name.split("/")
    changed = []
    for stage in stages:
        head, _, settings = stage.partition("@")
        kept = [new for setting in settings.split(",") if (new := change(setting))]
        changed.append(f"{head}@{','.join(kept)}" if kept else head)
    return "/".join([*changed, last])


def trainings_of_methods(cells: Sequence[Cell]) -> list[list[Cell]]:
    """Put the cells of each method and protocol together, in the order of their first cells.

    Args:
        cells: of any protocols.

    Returns:
        The trainings of each method on each protocol by their seeds; a method that has no training seed is alone, and
        so are those among which a seed occurs twice, since nothing says which of the two is the replicate.
    """
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.protocol.fingerprint, without_training_seed(cell.method).label), []).append(cell)
    found = []
    for group in groups.values():
        seeds = [training_seed(cell.method) for cell in group]
        is_one_method = len(set(seeds)) == len(group)
        found += (
            [sorted(group, key=lambda cell: training_seed(cell.method) or 0)] if is_one_method else [[c] for c in group]
        )
    return found


def method_cell(trainings: Sequence[Cell]) -> Cell:
    """The cell of a method as reports show it: the only training's own, or one that stands for several."""
    first = trainings[0]
    if len(trainings) == 1:
        return first
    found: dict[str, dict[str, None]] = {}
    for cell in trainings:
        for package, version in cell.versions.items():
            found.setdefault(package, {}).update(dict.fromkeys(version.split(" and ")))
    versions = {package: " and ".join(sorted(several)) for package, several in found.items()}
    peak = max(cell.provenance.get("peak_bytes", 0) for cell in trainings)
    provenance = {**first.provenance, **({"peak_bytes": peak} if peak else {})}
    return replace(first, method=without_training_seed(first.method), versions=versions, provenance=provenance)


def names_of_trainings(trainings: Sequence[Cell]) -> dict[str, str]:
    """The name of each training of a method with its seed, 0 too, by cell key."""
    bare = without_seed(trainings[0].method.name)
    sibling = next((cell.method for cell in trainings if cell.method.name != bare), None)
    names = {}
    for cell in trainings:
        name, seed = cell.method.name, f"{_SEED}{training_seed(cell.method)}"
        if name == bare:  # the sibling's name shows where the seed belongs
            name = cell.method.label if sibling is None else _with_settings(sibling.name, _seed_as(seed))
        names[cell.key] = name
    return names


def _seed_as(seed: str) -> Any:
    return lambda setting: seed if _is_seed(setting) else setting


@dataclass(frozen=True, eq=False)
class Trainings:
    """Several trainings of a method on the episodes of its protocol.

    Attributes:
        cells: of the trainings, by their seeds, [k].
        accuracy: of each training on each episode, NaN where it lacks the episode, [k, E].
    """

    cells: Sequence[Cell]
    accuracy: NDArray[np.float64]

    @cached_property
    def networks(self) -> tuple[str, ...]:
        """Digests of the trained weights: methods that share all of them are paired by training, [k]."""
        return tuple(cell.method.weights for cell in self.cells)

    def means(self, episodes: NDArray[np.bool_]) -> NDArray[np.float64]:
        """Mean accuracy of each training on the chosen episodes [E], which all have, [k]."""
        means: NDArray[np.float64] = self.accuracy[:, episodes].mean(axis=1)
        return means

"""The one way to import the code that a study names: because the user typed it or trusts it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from fewshot_bench.adaptation import ADAPTATIONS
from fewshot_bench.backbones import BACKBONES
from fewshot_bench.datasets import admit_dataset
from fewshot_bench.losses import LOSSES
from fewshot_bench.registry import Registry
from fewshot_bench.study.checkpoints import read_checkpoint
from fewshot_bench.study.study import Study

_LISTS: dict[str, Registry[Any]] = {"adaptations": ADAPTATIONS, "losses": LOSSES, "base_losses": LOSSES}


def admit_fields(fields: Mapping[str, Any]) -> None:
    """Import the code that fields of a study name, by field, which the user typed or trusts.

    Raises:
        CodeError: something that is named cannot be imported.
    """
    for field, registry in _LISTS.items():
        for name in fields.get(field) or ():
            registry.admit(name)
    if fields.get("backbone") is not None:
        BACKBONES.admit(fields["backbone"])
    if fields.get("dataset") is not None:
        admit_dataset(fields["dataset"])


def admit_checkpoints(names: Iterable[str]) -> None:
    """Import the code that the cards of checkpoints name, which the user trusts.

    Raises:
        CodeError: something that is named cannot be imported.
        UnknownNameError: there is no such checkpoint.
        WeightsError: a checkpoint is damaged.
    """
    for name in names:
        card = read_checkpoint(name).card
        BACKBONES.admit(card.backbone)
        if isinstance(card.recipe.get("loss"), str):
            LOSSES.admit(card.recipe["loss"])


def admit_all(study: Study) -> None:
    """Import all code that a trusted study names, itself and by its checkpoints; raises as the two above."""
    admit_fields(study.model_dump())
    admit_checkpoints(study.checkpoints or ())

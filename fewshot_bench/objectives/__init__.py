"""Objectives that learn from tasks, and the choice of the objective of a recipe."""

from __future__ import annotations

from functools import partial

from fewshot_bench.backbones import Backbone
from fewshot_bench.errors import StudyError
from fewshot_bench.objectives.episodic import Episodic
from fewshot_bench.objectives.meta_gradients import MetaGradients, MetaHead
from fewshot_bench.training import ObjectiveFactory
from fewshot_bench.training.classification import Classification
from fewshot_bench.training.distillation import Distillation
from fewshot_bench.training.recipe import Recipe

__all__ = ["Episodic", "MetaGradients", "MetaHead", "objective_of"]

_OBJECTIVES: dict[str, ObjectiveFactory] = {
    "classification": Classification,
    "cosine": Classification,
    "episodic": Episodic,
    "maml": MetaGradients,
    "anil": MetaGradients,
    "meta-sgd": MetaGradients,
}


def objective_of(recipe: Recipe, teacher: Backbone | None = None) -> ObjectiveFactory:
    """What the steps of a recipe minimise.

    Args:
        recipe: names the objective.
        teacher: of a distillation, with its base head.

    Raises:
        StudyError: a distillation lacks its teacher.
    """
    if recipe.objective == "distillation":
        if teacher is None:
            raise StudyError(f"a distillation needs the network of its teacher, {recipe.teacher}.")
        return partial(Distillation, teacher=teacher)
    return _OBJECTIVES[recipe.objective]

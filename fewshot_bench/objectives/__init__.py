"""What trainings on the base split minimise beside the loss of a classifier: the losses of tasks."""

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
        StudyError: the objective cannot be trained yet, or lacks its teacher.
    """
    if recipe.objective == "distillation":
        if teacher is None:
            raise StudyError(f"a distillation learns from a network, and {recipe.teacher} was not given to it.")
        return partial(Distillation, teacher=teacher)
    if recipe.objective not in _OBJECTIVES:
        raise StudyError(f"the objective {recipe.objective} cannot be trained yet.")
    return _OBJECTIVES[recipe.objective]

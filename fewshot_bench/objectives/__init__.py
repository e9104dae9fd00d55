"""What trainings on the base split minimise beside the loss of a classifier: the losses of tasks."""

from __future__ import annotations

from fewshot_bench.errors import StudyError
from fewshot_bench.objectives.episodic import Episodic
from fewshot_bench.training import ObjectiveFactory
from fewshot_bench.training.classification import Classification
from fewshot_bench.training.recipe import Recipe

__all__ = ["Episodic", "objective_of"]

_OBJECTIVES: dict[str, ObjectiveFactory] = {"classification": Classification, "episodic": Episodic}


def objective_of(recipe: Recipe) -> ObjectiveFactory:
    """What the steps of a recipe minimise.

    Raises:
        StudyError: the objective cannot be trained yet.
    """
    if recipe.objective not in _OBJECTIVES:
        raise StudyError(f"the objective {recipe.objective} cannot be trained yet.")
    return _OBJECTIVES[recipe.objective]

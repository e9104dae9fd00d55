"""What a study says of choosing hyper-parameters in each episode, for each of its adaptations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from fewshot_bench._io.toml import value_of
from fewshot_bench.adaptation import Adaptation, EmbeddingAdaptation
from fewshot_bench.adaptation.hyper_parameter_choice import OneShotError, alternatives, nothing_to_choose
from fewshot_bench.errors import StudyError
from fewshot_bench.study.study import Study

OF_A_CHOICE = frozenset({"choose", "candidates"})
"""Fields of an adaptation that say how the others are chosen; they are no hyper-parameters for --set."""


def with_choice(study: Study, adaptation: type[Adaptation], values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of an adaptation, where a study has hyper-parameters chosen in each episode.

    What a user sets to one value is fixed; several values are those to choose between, instead of the grid's.

    Args:
        study: that says whether anything is chosen.
        adaptation: the class.
        values: that the study sets, by field.

    Returns:
        The fields; as they were where the adaptation has nothing to choose.
    """
    if study.choose == "none" or not issubclass(adaptation, EmbeddingAdaptation):
        return dict(values)
    listed = {name: several for name, value in values.items() if (several := several_values(value)) is not None}
    fixed = {name: value for name, value in values.items() if name not in listed}
    tried = {name: several for name, several in adaptation.grid.items() if name not in fixed} | listed
    if not tried:
        return fixed
    return fixed | {"choose": study.choose} | ({"candidates": tried} if tried != dict(adaptation.grid) else {})


def several_values(value: Any) -> tuple[Any, ...] | None:
    """The values of a list, or of a text with commas such as "0.1,1,10"; None where it is one value.

    >>> several_values("0.1,1,euclidean"), several_values([1, 2]), several_values("cosine")
    ((0.1, 1, 'euclidean'), (1, 2), None)
    """
    if isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(value, str) and "," in value:
        return tuple(value_of(part.strip()) for part in value.split(",") if part.strip())
    return None


def check_choice(study: Study, adaptation: Adaptation) -> None:
    """See that an adaptation can choose as a study says; nothing is computed for it.

    Raises:
        StudyError: there is one image per class, a value is refused, or there is too much to choose between.
    """
    if not isinstance(adaptation, EmbeddingAdaptation) or adaptation.choose == "none":
        return
    if adaptation.choose == "support-cv" and _smallest_shot(study) < 2:
        raise OneShotError(adaptation.name)
    alternatives(adaptation)


def _smallest_shot(study: Study) -> int:
    """The fewest images per class that a support set of a study may have."""
    return (study.least_shot or 1) if study.sampler == "varied" else min(study.shots)


def check_something_is_chosen(study: Study, planned: Sequence[Adaptation]) -> None:
    """See that --choose acts somewhere; in a list of adaptations, those that have nothing to choose stay as they are.

    Raises:
        StudyError: it acts nowhere.
    """
    choosing = [one for one in planned if isinstance(one, EmbeddingAdaptation) and one.choose != "none"]
    if study.choose != "none" and planned and not choosing:
        first = next((one for one in planned if isinstance(one, EmbeddingAdaptation)), None)
        if first is not None:
            raise StudyError(nothing_to_choose(first.name, first.grid))
        raise StudyError(
            f"{planned[0].name} does not work on frozen embeddings, so nothing of it is chosen. Leave out --choose."
        )


def settings_of_choice(adaptation: Adaptation) -> dict[str, Any]:
    """What a method's name says of its choice beside the way of choosing: what differs from the grid of its class.

    Returns:
        By hyper-parameter the values that are tried, such as "0.1;1;10", or the one value of those that are fixed.
    """
    if not isinstance(adaptation, EmbeddingAdaptation) or adaptation.choose == "none":
        return {}
    tried = adaptation.tried
    own = {name: ";".join(map(str, several)) for name, several in tried.items() if several != adaptation.grid.get(name)}
    return own | {name: getattr(adaptation, name) for name in adaptation.grid if name not in tried}


def hyper_parameter_fields(adaptation: type[Adaptation]) -> set[str]:
    """The names of what --set may set of an adaptation."""
    return {field.name for field in fields(adaptation)} - OF_A_CHOICE

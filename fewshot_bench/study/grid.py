"""A grid of hyper-parameters, and the study that each of its points is."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.limits import MOST_CELLS
from fewshot_bench.report.wording import value_text
from fewshot_bench.study.methods import hyper_parameters_of
from fewshot_bench.study.study import Study

Value = bool | int | float | str

NOT_OF_THE_METHOD = frozenset(
    {
        *("split", "fractions", "way", "shots", "query", "episodes", "runs", "seed"),
        *("sampler", "alpha", "least_way", "least_shot"),
        *("device", "chunk", "results", "baseline"),
    }
)
"""Fields of a study that fix its episodes, or say where it runs: no part of what is done with an episode."""

_NO_HYPER_PARAMETERS = NOT_OF_THE_METHOD | {
    "dataset", "least_images", "backbone", "weights", "checkpoints", "training_seed", "base_losses", "adaptations",
    "losses", "hyper_parameters",
}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """One hyper-parameter and the values to try, in order.

    Attributes:
        name: "lambda", "tau", "reading", another field of a study, or a hyper-parameter of the adaptation.
        values: at least one, all different.
    """

    name: str
    values: tuple[Value, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "name", self.name.replace("-", "_").rstrip("_"))
        if not self.values or len(set(self.values)) < len(self.values):
            listed = ",".join(str(value) for value in self.values[:9]) + ("" if len(self.values) < 10 else ",...")
            raise StudyError(f"--grid {self.name} takes different values such as {self.name}=0.1,0.5, not '{listed}'.")


@dataclass(frozen=True)
class Grid:
    """Every combination of the values of some axes; the last axis varies fastest."""

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise StudyError(f"{twice[0]} is in the grid twice; give all of its values in one --grid.")
        if len(self) > MOST_CELLS:
            sizes = " x ".join(f"{len(axis.values):,}" for axis in self.axes)
            raise StudyError(f"the grid has {sizes} = {len(self):,} points; at most {MOST_CELLS:,} are possible.")

    def __len__(self) -> int:
        return math.prod(len(axis.values) for axis in self.axes)

    def points(self) -> list[dict[str, Value]]:
        """The value on each axis, for every point in order."""
        names = [axis.name for axis in self.axes]
        combinations = itertools.product(*(axis.values for axis in self.axes))
        return [dict(zip(names, values, strict=True)) for values in combinations]


PAPER_GRID = Grid((Axis("lambda", (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)), Axis("tau", (0.1, 0.3, 0.5, 0.7))))
"""What the SCHaNe paper searches on the validation split."""


def swept_fields() -> dict[str, str]:
    """The fields of a study that a grid may vary, by the name that a user types."""
    return {name.rstrip("_"): name for name in Study.model_fields if name not in _NO_HYPER_PARAMETERS}


def check_names(names: Iterable[str], adaptation: str) -> None:
    """See that every name can be varied.

    Raises:
        UnknownNameError: an axis is neither a field of a study nor a hyper-parameter of the adaptation, or the
            adaptation is not known.
    """
    own = {name for name in hyper_parameters_of(adaptation) if not name.endswith("_") and name != "loss"}
    known = own | set(swept_fields())
    for name in names:
        if name not in known:
            raise UnknownNameError(f"hyper-parameter of {adaptation} or of a study", name, known)


def with_values(study: Study, values: Mapping[str, Value]) -> Study:
    """The study with other hyper-parameters.

    Args:
        study: what stays as it is.
        values: by the name of an axis.

    Raises:
        StudyError: a value is refused.
    """
    fields = swept_fields()
    content: dict[str, Any] = study.model_dump(exclude_unset=True)
    content |= {fields[name]: value for name, value in values.items() if name in fields}
    others = {name: value for name, value in values.items() if name not in fields}
    content["hyper_parameters"] = {**study.hyper_parameters, **others}
    try:
        return Study.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0]).rstrip("_")
        raise StudyError(f"{name} of the grid: {first['msg']}, not {first['input']!r}.") from error


def text_of(values: Mapping[str, Value]) -> str:
    """A point in words, e.g. "lambda 0.9, tau 0.5"."""
    return ", ".join(f"{name} {value_text(value)}" for name, value in values.items())

"""The study file: a grid of datasets, shots, methods and runs in TOML, the studies it describes, and the presets.

docs/studies.md describes the file for those who write one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from fewshot_bench._io.toml import KeyPath
from fewshot_bench.datasets import admit_dataset, check_name
from fewshot_bench.errors import CodeNotTrustedError, FewshotBenchError, StudyError, UnknownNameError
from fewshot_bench.limits import MOST_CELLS, MOST_EPISODES
from fewshot_bench.plugins import is_code
from fewshot_bench.registry import Entry, Registry
from fewshot_bench.study.known_names import GROUPS, Kind, refuse_misspelt
from fewshot_bench.study.plan import Outputs
from fewshot_bench.study.study import (
    FIXED_BY_RECIPE,
    ComputingOptions,
    EpisodeOptions,
    Lambda,
    MethodOptions,
    Options,
    Study,
    Tau,
)
from fewshot_bench.training.named_recipes import named_recipe, recipe_names

MOST_STUDIES = 2_000
"""The limit of a file; a larger grid is a mistake or an attack."""

_NETWORK = ("backbone", "weights", "checkpoints", "recipe")


def _several(field: str, default: Any, **changes: Any) -> Any:
    """The field of a study that a file may give several values."""
    of_study = Study.model_fields[field]
    return Field(default, **({"description": of_study.description, "alias": of_study.alias} | changes))


class MethodTable(MethodOptions):
    """One `[[methods]]` table; each backbone or recipe and each value of lambda and tau makes a method."""

    datasets: tuple[str, ...] | None = None
    backbone: tuple[str, ...] | None = _several("backbone", None, min_length=1)
    recipe: tuple[str, ...] | None = _several("recipe", None, min_length=1)
    lambda_: tuple[Lambda, ...] = _several("lambda_", (0.9,), min_length=1)
    tau: tuple[Tau, ...] = _several("tau", (0.5,), min_length=1)


class StudyFile(MethodTable, EpisodeOptions, ComputingOptions):
    """The whole file. Its keys of methods are the defaults of every `[[methods]]` table."""

    name: str = Field("", description="Name of the study. Default: the file's name.")
    description: str = Field("", description="One line for people.")
    datasets: tuple[str, ...] = _several("dataset", ("glyphs",), min_length=1)
    baseline: str | dict[str, str] | None = _several(
        "baseline", None, description='Method to test the others against; per dataset: `baseline.cifar-fs = "..."`.'
    )
    outputs: Outputs = Field(Outputs(), description="A table, see below.")
    methods: tuple[MethodTable, ...] = Field((), description="Tables, see below.")

    def baselines(self) -> dict[str, str]:
        """The name of the baseline, by dataset."""
        if isinstance(self.baseline, dict):
            return self.baseline
        return {} if self.baseline is None else dict.fromkeys(self.datasets, self.baseline)

    def studies(self) -> Iterator[tuple[Study, KeyPath]]:
        """The study of every dataset and method, dataset by dataset, and the place of its method in the file."""
        shared = _given(self, EpisodeOptions) | _given(self, ComputingOptions)
        for dataset in dict.fromkeys(self.datasets):
            for path, table in self._tables():
                if table.datasets is None or dataset in table.datasets:
                    method = self._method_fields(table)
                    for variant in _variants(method):
                        yield Study.model_validate({"dataset": dataset, **shared, **method, **variant}), path

    def misspelt(self) -> tuple[KeyPath, str] | None:
        """The first name that cannot exist, where and in words; it is found before anything heavy is imported."""
        for path, kind, name in self._names():
            try:
                refuse_misspelt(kind, name)
            except UnknownNameError as error:
                return path, str(error)
        for path, table in (((), self), *self._tables()):
            for number, name in enumerate(table.recipe or ()):
                if name in recipe_names():  # which are right; to read one imports torch
                    continue
                try:
                    named_recipe(name)
                except FewshotBenchError as error:
                    return (*path, "recipe", number), str(error)
        return self._unknown_dataset()

    def _names(self) -> Iterator[tuple[KeyPath, Kind, str]]:
        """Every backbone, adaptation and loss that is named: its place, its kind and the name."""
        registries: dict[str, Kind] = {
            "backbone": "backbone",
            "adaptations": "adaptation",
            "losses": "loss",
            "base_losses": "loss",
        }
        for path, table in (((), self), *self._tables()):
            for key, kind in registries.items():
                names = getattr(table, key) if key in table.model_fields_set else None
                yield from (((*path, key, number), kind, name) for number, name in enumerate(names or ()))

    def _unknown_dataset(self) -> tuple[KeyPath, str] | None:
        for number, name in enumerate(self.datasets):
            try:
                check_name(name)
            except CodeNotTrustedError:  # `code` reports it
                continue
            except UnknownNameError as error:
                return ("datasets", number), str(error)
        return None

    def problem(self) -> tuple[KeyPath, str] | None:
        """The first error in the file as a whole: its place, and in words."""
        for path, registry, name in self._registered_names():
            try:
                _ = registry[name]
            except UnknownNameError as error:
                return path, str(error)
        unknown = self._unknown_dataset()
        if unknown is not None:
            return unknown
        for path, table in self._tables():
            foreign = next((name for name in table.datasets or () if name not in self.datasets), None)
            if foreign is not None:
                return (*path, "datasets"), f"{foreign} is not one of the study's datasets; add it to them."
        for dataset in self.baselines():
            if dataset not in self.datasets:
                return ("baseline", dataset), f"{dataset} is not one of the study's datasets."
        output = self.outputs.problem()
        if output is not None:
            return ("outputs", output[0]), output[1]
        return self._problem_of_hyper_parameters() or self._problem_of_size()

    def _problem_of_hyper_parameters(self) -> tuple[KeyPath, str] | None:
        """The first hyper-parameter that no adaptation of its table has; above the tables, those of any table count."""
        from fewshot_bench.study.methods import unknown_hyper_parameter

        known = {path: self._accepted(table) for path, table in self._tables()}
        known[()] = set().union(*known.values())
        for path, table in (((), self), *self._tables()):
            for name in table.hyper_parameters:
                if name not in known[path]:
                    whose = "of this table" if path else "of this study"
                    return (*path, "hyper_parameters", name), unknown_hyper_parameter(name, known[path], whose)
        return None

    def _problem_of_size(self) -> tuple[KeyPath, str] | None:
        tables = [self._method_fields(table) for _, table in self._tables()]
        methods = sum(map(_count_of_variants, tables))
        if methods * len(self.datasets) > MOST_STUDIES:
            return (), f"{methods:,} methods on {len(self.datasets)} datasets are more than {MOST_STUDIES:,} studies."
        lists = ("checkpoints", "base_losses", "adaptations", "losses")
        each = [
            math.prod(len(table[name]) for name in lists if table.get(name)) * (table.get("training_seeds") or 1)
            for table in tables
        ]
        cells = sum(_count_of_variants(table) * count for table, count in zip(tables, each, strict=True))
        cells *= len(self.shots) * len(self.datasets)
        if cells > MOST_CELLS:
            return (), f"a study has at most {MOST_CELLS:,} cells, and this one {cells:,}. Divide it."
        episodes = (self.max_episodes or 1) if self.until_ci is not None else self.episodes
        if self.runs * episodes > MOST_EPISODES:
            return ("runs",), (
                f"all runs together should have at most {MOST_EPISODES:,} episodes, and these are {self.runs:,} runs "
                f"of {episodes:,}."
            )
        if self.until_ci is not None and methods > 1:
            return ("until_ci",), (
                "until_ci stops the methods of one network together, so that they share their episodes; this file has "
                f"{methods} tables, backbones or values of lambda and tau. Use episodes instead, or divide the file."
            )
        return None

    def _registered_names(self) -> Iterator[tuple[KeyPath, Registry[Any], str]]:
        """Every name that a registry should know: its place, the registry and the name."""
        from fewshot_bench.adaptation import ADAPTATIONS
        from fewshot_bench.backbones import BACKBONES, BackboneRequest, model_of_hub
        from fewshot_bench.losses import LOSSES

        registries: dict[Kind, Registry[Any]] = {"adaptation": ADAPTATIONS, "loss": LOSSES, "backbone": BACKBONES}
        for path, kind, name in self._names():
            is_of_hub = kind == "backbone" and model_of_hub(BackboneRequest(name)) is not None
            if not is_of_hub and not (kind == "adaptation" and name in GROUPS):
                yield path, registries[kind], name

    def code(self) -> Iterator[tuple[KeyPath, Callable[[str], None], str]]:
        """Every name of code or of a hub that is not admitted yet: its place, what admits it, and the name."""
        may_be_code = any(
            is_code(name) and not (kind == "backbone" and name.startswith("timm:")) for _, kind, name in self._names()
        )
        for path, registry, name in self._registered_names() if may_be_code else ():  # which imports torch
            if is_code(name) and name not in registry:
                yield path, registry.admit, name
        for number, name in enumerate(self.datasets):
            try:
                check_name(name)
            except CodeNotTrustedError:
                yield ("datasets", number), admit_dataset, name
            except UnknownNameError:
                continue

    def _tables(self) -> list[tuple[KeyPath, MethodTable]]:
        """The method tables with their places; a file without tables has one."""
        if not self.methods:
            return [((), MethodTable())]
        return [(("methods", number), table) for number, table in enumerate(self.methods)]

    def _method_fields(self, table: MethodTable) -> dict[str, Any]:
        """The fields of a table, with the file's defaults for all tables."""
        own, common = _given(table, MethodTable), _given(self, MethodTable)
        if own.keys() & set(_NETWORK):  # the file's weights belong to another network
            common = {name: value for name, value in common.items() if name not in _NETWORK}
        if "checkpoints" in own:
            common = {
                name: value
                for name, value in common.items()
                if name not in Study.fields_where("is_fixed_by_checkpoint")
            }
        if "recipe" in own:
            common = {name: value for name, value in common.items() if name not in FIXED_BY_RECIPE}
        for name in ("reading", "stop_gradient", "anchors"):
            if not self._acts(name, own) and any(self._acts(name, _given(each, MethodTable)) for each in self.methods):
                common.pop(name, None)
        accepted = self._accepted(table)
        shared = {name: value for name, value in self.hyper_parameters.items() if name in accepted}
        fields = {**common, **own, "hyper_parameters": {**shared, **table.hyper_parameters}}
        fields.pop("datasets", None)
        return fields

    def _acts(self, name: str, table: dict[str, Any]) -> bool:
        """Whether a loss of this table can be taken as the file says for all tables."""
        from fewshot_bench.losses import readings_of, takes

        method = _given(self, MethodTable) | table
        losses = (*method.get("losses", ()), *(method.get("base_losses") or ()))
        value = getattr(self, name)
        return (
            value == type(self).model_fields[name].default
            or method.get("base_losses") is None  # the backbone decides which losses these are
            or any(value in readings_of(loss) if name == "reading" else takes(loss, name) for loss in losses)
        )

    def _accepted(self, table: MethodTable) -> set[str]:
        """The hyper-parameters of a table's adaptations."""
        from fewshot_bench.study.methods import hyper_parameters_of

        source = table if "adaptations" in table.model_fields_set else self
        names, recipes = source.adaptations, table.recipe or self.recipe
        if recipes and "adaptations" not in source.model_fields_set:
            names = tuple(named_recipe(recipe).evaluation.adaptation for recipe in recipes)
        return set().union(*(hyper_parameters_of(name) for name in names))


def _given(options: Options, kind: type[Options]) -> dict[str, Any]:
    """The fields of a kind that were given, by their names in Python."""
    return {name: getattr(options, name) for name in kind.model_fields if name in options.model_fields_set}


def _count_of_variants(method: dict[str, Any]) -> int:
    """The number of `_variants`."""
    weights: tuple[float | None, ...] = method.get("lambda_", (None,))
    temperatures: tuple[float | None, ...] = method.get("tau", (None,))
    without = sum(1 for weight in weights if weight == 0)
    contrasts = without + (len(weights) - without) * len(temperatures)
    return len(dict.fromkeys(_networks(method))) * contrasts


def _variants(method: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every combination of network, lambda (0: cross-entropy, no tau) and tau; what was not given stays absent."""
    key = "recipe" if method.get("recipe") else "backbone"
    for network in dict.fromkeys(_networks(method)):
        for weight in method.get("lambda_", (None,)):
            for temperature in method.get("tau", (None,))[: 1 if weight == 0 else None]:
                variant = {key: network, "lambda_": weight, "tau": temperature}
                yield {name: value for name, value in variant.items() if value is not None}


def _networks(method: dict[str, Any]) -> tuple[str | None, ...]:
    """The recipes or backbones of a table."""
    return method.get("recipe") or method.get("backbone") or (None,)


_FOLDER = Path(__file__).with_name("preset_files")
MAKE_ONE = "To start from a working one: fewshot-bench study quickstart > study.toml"
_ADVICE = "The path of your own file ends in .toml. See: fewshot-bench ls studies."


def preset_names() -> list[str]:
    """The names of all presets."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def preset_text(name: str) -> str | None:
    """The text of a preset, None for a path; raises UnknownNameError or StudyError if neither exists."""
    if name in preset_names():
        return known_preset(name)
    if Path(name).exists():
        return None
    if name.endswith(".toml") or Path(name).name != name:
        raise StudyError(f"there is no file {name}. {MAKE_ONE}")
    return known_preset(name)


def known_preset(name: str) -> str:
    """The text of a preset; raises UnknownNameError for an unknown one."""
    if name not in preset_names():
        raise UnknownNameError("study", name, preset_names(), _ADVICE)
    return (_FOLDER / f"{name}.toml").read_text(encoding="utf-8")


def preset_entries() -> list[Entry[None]]:
    """Every preset with its description, for `fewshot-bench ls studies`."""
    return [Entry(name, None, _description(known_preset(name))) for name in preset_names()]


def _description(text: str) -> str:
    found = re.search(r'^description = "(.*)"$', text, re.MULTILINE)
    return found[1] if found else ""

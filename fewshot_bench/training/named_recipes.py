"""Recipes by name: how the literature trains its networks on a base split, as TOML files.

docs/recipes.md describes the files for those who write one.
"""

from __future__ import annotations

import re
from dataclasses import fields
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewshot_bench._io.toml import tomllib
from fewshot_bench.errors import StudyError, UnknownNameError
from fewshot_bench.registry import Entry
from fewshot_bench.training.recipe import (
    DERIVED_FIELDS,
    Recipe,
    refuse_settings_without_effect,
    refuse_wrong_types,
)

_FOLDER = Path(__file__).with_name("recipes")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]*")
_LARGEST = 1 << 16  # bytes
_BASE_STAGE = "base-"  # begins the names of base stages without a recipe
_CIFAR_FS_IMAGES = 38_400
_VIEWS_PER_HOUR = {
    "conv4_32": 8_000_000, "conv4_64": 2_500_000, "conv4_64_gap": 2_500_000, "resnet12": 160_000,
    "resnet12_flat": 160_000, "wrn28_10": 15_000, "timm:beit3_base_patch16_224.pt": 1_000,
}  # fmt: skip
"""Forward and backward on one free CPU core in float32, roughly: measured for Conv4, by operations for the others."""


_SHARED = {
    "matching": {"scale": "head_scale"}, "ridge": {"penalty": "head_penalty"}, "svm": {"C": "head_penalty"},
    "maml": {"steps": "inner_steps"},
}  # fmt: skip
"""Hyper-parameters of adaptations that a training has too, under these names."""


class _Table(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ValidationTable(_Table):
    """How the epoch is chosen: by episodes of the validation split."""

    every: int = Field(1, ge=1, description="Epochs between two validations.")
    episodes: int = Field(200, ge=1, description="Episodes per number of shots.")


class EvaluationTable(_Table):
    """The adaptation that belongs to a recipe."""

    adaptation: str = "centroid"
    hyper_parameters: dict[str, Any] = Field(default_factory=dict)


class DatasetTable(_Table):
    """What differs on a dataset."""

    training: dict[str, Any] = Field(default_factory=dict)
    hyper_parameters: dict[str, Any] = Field(default_factory=dict)


class NamedRecipe(_Table):
    """A recipe with its network, the adaptation that belongs to it, and where it comes from.

    Attributes:
        name: of the file.
        description: one line.
        source: the papers and code that it follows.
        notes: what differs from them, and what they do not say.
        backbone: name of the network.
        image_size: side in pixels instead of the network's own.
        training: fields of `Recipe`.
        validation: how the epoch is chosen; None keeps the last.
        evaluation: the adaptation.
        dataset: what differs, by dataset.
        digest: SHA-256 of the file.
    """

    name: str
    description: str
    source: str
    notes: str = ""
    backbone: str
    image_size: int | None = Field(None, ge=16, le=1024)
    training: dict[str, Any] = Field(default_factory=dict)
    validation: ValidationTable | None = None
    evaluation: EvaluationTable = EvaluationTable()
    dataset: dict[str, DatasetTable] = Field(default_factory=dict)
    digest: str

    def recipe(self, dataset: str, **changes: Any) -> Recipe:
        """How it trains on a dataset, with some fields changed; None changes nothing.

        Raises:
            StudyError: a field is unknown, of another type or out of its range, or a change has no effect.
        """
        values = self._training(dataset)
        values |= {name: value for name, value in changes.items() if value is not None}
        unknown = sorted(values.keys() - {field.name for field in fields(Recipe)} | values.keys() & DERIVED_FIELDS)
        if unknown:
            raise StudyError(f"the recipe {self.name}: a training on the base split has no setting '{unknown[0]}'.")
        refuse_wrong_types(values)
        recipe = Recipe(**values)
        refuse_settings_without_effect(changes, recipe)
        return recipe

    def views(self, dataset: str, images: int) -> int:
        """How many views a training sees on that many images of a dataset."""
        recipe = self.recipe(dataset)
        return recipe.epochs * recipe.images_per_epoch(images) * recipe.views

    def cost(self) -> str:
        """The cost of a training on CIFAR-FS in words, without the gradient steps within a task."""
        views = self.views("cifar-fs", _CIFAR_FS_IMAGES)
        rate = _VIEWS_PER_HOUR.get(self.backbone)
        hours = "" if rate is None else f", about {_rounded(views / rate)} hours of a CPU core"
        return f"on cifar-fs {_rounded(views / 1e6)} million views{hours}"

    def hyper_parameters(self, dataset: str, trained: Recipe | None = None) -> dict[str, Any]:
        """Hyper-parameters of its adaptation on a dataset.

        Args:
            dataset: name of the dataset.
            trained: the recipe of the training, if its fields were changed; hyper-parameters of the adaptation that are
                fields of the recipe follow, such as the penalty of ridge regression.
        """
        own, recipe = self.evaluation.hyper_parameters | self._on(dataset).hyper_parameters, self.recipe(dataset)
        for name, field in _SHARED.get(self.evaluation.adaptation, {}).items():
            if trained is not None and name in own and own[name] == getattr(recipe, field):
                own[name] = getattr(trained, field)
        return own

    def _training(self, dataset: str) -> dict[str, Any]:
        return self.training | self._on(dataset).training

    def _on(self, dataset: str) -> DatasetTable:
        return self.dataset.get(dataset, DatasetTable())


def recipe_names() -> list[str]:
    """The names of the recipes that come with this package.

    >>> "protonet-conv4" in recipe_names()
    True
    """
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def named_recipe(name: str) -> NamedRecipe:
    """The recipe of a name, or in a file of the user's own, whose path ends in .toml.

    Raises:
        UnknownNameError: there is no recipe of that name.
        StudyError: the file cannot be read, or a value in it is refused.
    """
    if not isinstance(name, str):
        raise StudyError(f"a recipe is named by text, not {name!r:.40}.")
    if name.endswith(".toml"):
        path = Path(name)
        is_taken = path.stem in recipe_names() or path.stem.startswith(_BASE_STAGE)
        if is_taken and path.resolve().parent != _FOLDER.resolve():
            raise StudyError(
                f"the recipe {path} should have a name of its own: results of {path.stem} are those of the recipe or "
                "base stage that comes with this package. Rename the file."
            )
        return _read(path)
    if name not in recipe_names():
        hint = "The path of your own file ends in .toml. See: fewshot-bench ls recipes"
        raise UnknownNameError("recipe", name, recipe_names(), hint)
    return _read(_FOLDER / f"{name}.toml")


def recipe_entries() -> list[Entry[None]]:
    """Every recipe with its description, for `fewshot-bench ls recipes`."""
    recipes = [named_recipe(name) for name in recipe_names()]
    return [
        Entry(each.name, None, each.description, {"backbone": each.backbone, "cost": each.cost(), "paper": each.source})
        for each in recipes
    ]


def _rounded(value: float) -> str:
    """Two digits, e.g. "0.85" or "1,100"."""
    return f"{float(f'{value:.2g}'):,.10g}"


def _read(path: Path) -> NamedRecipe:
    try:
        if not _NAME.fullmatch(path.stem):
            raise StudyError(f"the recipe {path} should be named by letters, digits, dots, plus and minus.")
        if not path.is_file() and path.exists():
            raise StudyError(f"the recipe {path} should be a regular file.")
        if path.stat().st_size > _LARGEST:
            raise StudyError(f"the recipe {path} is too large for one: {path.stat().st_size:,} bytes.")
        content = path.read_bytes()
        values = tomllib.loads(content.decode("utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise StudyError(f"the recipe {path} cannot be read ({error}).") from error
    try:
        own = {"name": path.stem, "digest": sha256(content).hexdigest()}
        recipe = NamedRecipe(**{**values, **own})
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"]))
        raise StudyError(f"the recipe {path}: {key}: {first['msg']}.") from error
    for dataset in ("", *recipe.dataset):
        try:
            refuse_settings_without_effect(recipe._training(dataset), recipe.recipe(dataset))
        except StudyError as error:
            where = f" on {dataset}" if dataset else ""
            words = str(error).removeprefix(f"the recipe {recipe.name}: ")
            raise StudyError(f"the recipe {path}{where}: {words}") from error
    _refuse_seeds(path, recipe)
    return recipe


def _refuse_seeds(path: Path, recipe: NamedRecipe) -> None:
    """A training's seed is chosen by the command, so that several seeds are several trainings."""
    if any("seed" in settings for settings in (recipe.training, *(each.training for each in recipe.dataset.values()))):
        raise StudyError(f"the recipe {path} sets a seed, which a command chooses. Leave it out, and use --seed.")

"""A study: one dataset, backbones, adaptations and shots make a grid of cells.

Every option of a study is one field here, with its type, bounds, help and section. The command line, the keys of a
study file, the tables of docs/studies.md and the lists of what a checkpoint, a sweep or a results folder fixes are read
from these fields.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    ValidationError,
    model_validator,
)

from fewshot_bench._io.locations import Location, location_of
from fewshot_bench._io.notebooks import html_facts
from fewshot_bench.arguments import unknown_argument
from fewshot_bench.datasets import OwnOptions
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.episodes import Protocol, resolved_protocol, whole_protocol
from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT, SamplerName
from fewshot_bench.errors import FewshotBenchError, FieldError, StudyError
from fewshot_bench.limits import (
    LARGEST_SEED,
    LARGEST_SIZE,
    LARGEST_WAY,
    MOST_CELLS,
    MOST_EPISODES,
    MOST_RUNS,
    WHOLE_SAMPLER,
)
from fewshot_bench.training.named_recipes import named_recipe
from fewshot_bench.training.recipe import PrecisionName

Section = Literal["data", "method", "episodes", "computing", "output"]

Lambda = Annotated[float, Field(ge=0, le=1)]
"""Weight of the contrastive term."""

Tau = Annotated[float, Field(gt=0)]
"""Temperature of the contrastive term."""

SAMPLER_FIELDS = ("sampler", "alpha", "least_way", "least_shot")
"""The fields that say how episodes are sampled."""

LATER_FIELDS = (
    "choose", "base_precision", "training_seeds", "recipe", "stop_gradient", "anchors", "protocol", "base_settings",
    "root",
)  # fmt: skip
"""Fields added after the first release: records and keys leave them out at their defaults, so that old ids hold."""

FIXED_BY_RECIPE = ("backbone", "weights", "checkpoints", "base_losses", "image_size", "interpolation")
"""The fields that a recipe determines."""

OF_FEW_SHOT = (
    "split", "fractions", "shots", "way", "query", "episodes", "runs", "until_ci", "max_episodes", "seed",
    *SAMPLER_FIELDS,
)  # fmt: skip
"""The fields that have no effect on `protocol="full"`."""

IMPLIED_BY_FULL: dict[str, Any] = {"split": "test", "sampler": "whole", "shots": (0,)}
"""The values that `protocol="full"` gives to some of them."""

MOST_TRAININGS = 1_000

_CLASSIFIER = "classifier"  # the adaptation of whole datasets

MOST_EPISODES_BY_DEFAULT = 30_000
"""Largest number of episodes per run under `until_ci`, unless `max_episodes` is given."""


def option(
    default: Any,
    text: str,
    section: Section,
    *,
    flag: str = "",
    metavar: str = "",
    is_fixed_by_checkpoint: bool = False,
    is_axis: bool = False,
    **bounds: Any,
) -> Any:
    """A field of a study that users set.

    Args:
        default: its value where nothing is given.
        text: its help on the command line and its meaning on the page of study files.
        section: of the command's help.
        flag: its option on the command line; named like the field by default.
        metavar: how the command line names its value; by default its choices or type.
        is_fixed_by_checkpoint: whether a checkpoint determines it.
        is_axis: whether a sweep can vary it.
        bounds: keyword arguments of pydantic's `Field`.
    """
    facts: dict[str, Any] = {
        "section": section,
        "flag": flag,
        "metavar": metavar,
        "is_fixed_by_checkpoint": is_fixed_by_checkpoint,
        "is_axis": is_axis,
    }
    return Field(default, description=text, json_schema_extra=facts, **bounds)


def _results(value: object) -> Location:
    """The folder that a text names; a folder stays what it is. Raises ValueError if it is neither."""
    if not isinstance(value, str | Path) and not hasattr(value, "fs"):
        raise ValueError("Input should be a folder, or a URL such as s3://bucket/folder")
    return location_of(value)  # type: ignore[arg-type]  # what has a file system is a UPath, which is not imported here


ResultsPlace = Annotated[Location, PlainValidator(_results), PlainSerializer(str, when_used="json")]
"""Where results are kept: a folder, or a URL that fsspec knows."""


def _refused(model: type[BaseModel], error: ValidationError) -> FewshotBenchError:
    """The first error of a model that was made in Python, in its words."""
    details = error.errors()[0]
    field = str(details["loc"][0]) if details["loc"] else ""
    if details["type"] == "extra_forbidden":
        return unknown_argument(model.__name__, field, list(model.model_fields))
    of = f"{field} of {model.__name__}" if field else model.__name__
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    message = (
        message.replace("a valid tuple", "a list").replace("valid integer", "whole number").partition(", unable")[0]
    )
    value = repr(details["input"])
    return FieldError(f"{of} {message}, not {value if len(value) <= 80 else value[:80] + '...'}.")


class Options(BaseModel):
    """Known fields only; those that need a trailing underscore in Python are written without it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    if not TYPE_CHECKING:  # pydantic's own signature is the one to check calls against

        def __init__(self, **fields: Any) -> None:
            try:
                super().__init__(**fields)
            except ValidationError as error:
                raise _refused(type(self), error) from error

        # Files are validated without it, and their errors say where in the file: `study_parser`.
        __init__.__pydantic_base_init__ = True

        def __setattr__(self, name: str, value: Any) -> None:
            try:
                super().__setattr__(name, value)
            except ValidationError as error:
                raise FieldError(f"{name} of a {type(self).__name__} cannot be changed. Make another one.") from error

    def __str__(self) -> str:
        return repr(self)

    def __repr_args__(self) -> Iterable[tuple[str | None, Any]]:
        """The fields that differ from their default."""
        defaults = {name: field.default for name, field in type(self).model_fields.items()}
        return [(name, value) for name, value in super().__repr_args__() if name and value != defaults.get(name)]

    def _repr_html_(self) -> str:
        return html_facts(type(self).__name__, {str(name): value for name, value in self.__repr_args__()})

    @classmethod
    def fields_where(cls, fact: str, *values: Any) -> tuple[str, ...]:
        """The fields, in order, for which a parameter of `option` is true or has one of the values."""
        return tuple(name for name in cls.model_fields if cls.fact(name, fact) in (values or (True,)))

    @classmethod
    def fact(cls, name: str, fact: str) -> Any:
        """A fact about a field, as `option` was told; None for a field that is not an option."""
        extra = cls.model_fields[name].json_schema_extra
        return extra.get(fact) if isinstance(extra, dict) else None

    @classmethod
    def _types(cls, name: str) -> tuple[Any, ...]:
        """The annotation of a field, and its parts."""
        annotation = cls.model_fields[name].annotation
        return annotation, *get_args(annotation)

    @classmethod
    def takes_several(cls, name: str) -> bool:
        """Whether the value of a field is a list."""
        return any(get_origin(part) is tuple for part in cls._types(name))

    @classmethod
    def choices(cls, name: str) -> tuple[str, ...]:
        """The words that a field takes; none if it takes others."""
        return next((get_args(part) for part in cls._types(name) if get_origin(part) is Literal), ())

    @classmethod
    def kind(cls, name: str) -> type:
        """What the command line reads for a field: bool, int or float; the model reads all else from text."""
        if cls.takes_several(name):
            return str
        return next((part for part in cls._types(name) if part in (bool, int, float)), str)

    @classmethod
    def flag(cls, name: str) -> str:
        """What a field is called on the command line, such as "--base-loss"."""
        return cls.fact(name, "flag") or f"--{name.rstrip('_').replace('_', '-')}"


# fmt: off  # one field, one to three lines: to be read as a table
class EpisodeOptions(Options):
    """Images and the episodes that are drawn from them."""

    protocol: Literal["few-shot", "full"] = option(
        "few-shot",
        "full: whole train and test splits.",
        "episodes",
    )

    least_images: int = option(
        1, "Skip your own classes with fewer readable images.", "data", flag="--min-images", ge=1
    )
    class_depth: int | None = option(
        None, "Folders per class of your own images: 2 for alphabet/character.", "data", ge=1, le=8
    )
    layout: Literal["auto", "classes", "splits"] = option(
        "auto", "Read train, val and test as classes or splits.", "data"
    )
    root: str | None = option(None, "Folder of the files of --dataset torchvision:NAME.", "data", metavar="PATH")
    split: SplitName = option(
        "novel",
        "Split to draw from, or fractions that divide your own classes: 0.6,0.2,0.2.",
        "episodes",
        metavar="novel|validation|test|...",
    )
    fractions: tuple[float, float, float] | None = option(
        None,
        "Fractions of your own classes for base, validation and novel, such as 0.6, 0.2, 0.2.",
        "episodes",
        flag="--split",
    )
    shots: tuple[Annotated[int, Field(le=LARGEST_SIZE)], ...] = option(
        (1, 5), "Labelled images per class.", "episodes", min_length=1
    )
    way: int = option(5, "Classes per episode.", "episodes", le=LARGEST_WAY)
    query: int = option(15, "Images per class to classify.", "episodes", le=LARGEST_SIZE)
    episodes: int = option(3000, "Episodes per run; disjoint: all there are.", "episodes", ge=1, le=MOST_EPISODES)
    runs: int = option(3, "Runs with different episodes; disjoint: one.", "episodes", ge=1, le=MOST_RUNS)
    until_ci: float | None = option(
        None,
        "Draw until every 95% interval is at most ± this many points.",
        "episodes",
        gt=0,
        le=50,
    )
    max_episodes: int | None = option(
        None, f"Limit per run with --until-ci. Default: {MOST_EPISODES_BY_DEFAULT}.", "episodes", ge=1, le=MOST_EPISODES
    )
    seed: int = option(
        0, "Seed of episodes and of dividing your own classes.", "episodes", ge=-LARGEST_SEED, le=LARGEST_SEED
    )
    sampler: SamplerName = option(
        "standard",
        "Independent episodes; no shared images; uneven queries; varying way and shot; all images (--protocol full).",
        "episodes",
    )
    alpha: float | None = option(None, "Dirichlet concentration; smaller is more uneven. Default: 2.", "episodes")
    least_way: int | None = option(None, "Fewest classes with --sampler varied. Default: 2.", "episodes")
    least_shot: int | None = option(None, "Fewest shots with --sampler varied. Default: 1.", "episodes")


class MethodOptions(Options):
    """What is done with each episode, apart from the backbone and the contrastive term's weight and temperature."""

    weights: Path | None = option(
        None,
        "Weights file: safetensors or a PyTorch state dict.",
        "method",
        is_fixed_by_checkpoint=True,
    )
    checkpoints: tuple[str, ...] | None = option(
        None,
        "Names given to fewshot-bench train; replaces --backbone.",
        "method",
        flag="--checkpoint",
    )
    image_size: int | None = option(
        None,
        "Image side in pixels. Default: the backbone's.",
        "method",
        is_fixed_by_checkpoint=True,
        is_axis=True,
        ge=16,
        le=1024,
    )
    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = option(
        None, "How to resize images. Default: the backbone's.", "method", is_fixed_by_checkpoint=True, is_axis=True
    )
    base_losses: tuple[str, ...] | None = option(
        None,
        "Train on the base split first, once per loss; or none. Default: ce,ce+schane if not pretrained.",
        "method",
        flag="--base-loss",
        is_fixed_by_checkpoint=True,
    )
    base_epochs: int | None = option(
        None,
        "Epochs of base-split training. Default: the recipe's.",
        "method",
        is_fixed_by_checkpoint=True,
        is_axis=True,
        ge=1,
    )
    base_batch: int | None = option(
        None,
        "Batch size of base-split training. Default: the recipe's.",
        "method",
        is_fixed_by_checkpoint=True,
        is_axis=True,
        ge=2,
    )
    base_precision: PrecisionName | None = option(
        None,
        "Precision of base-split training (autocast). Default: float32.",
        "method",
        is_fixed_by_checkpoint=True,
        is_axis=True,
    )
    base_settings: dict[str, Any] = option(
        {}, "Other fields of its recipe, such as train_share=0.2.", "method", flag="--base-set"
    )
    training_seed: int = option(0, "Seed of base-split training.", "method", ge=-(1 << 63), lt=1 << 63)
    training_seeds: int | None = option(
        None,
        "Trainings per method, from --training-seed on. Default: 1.",
        "method",
        is_fixed_by_checkpoint=True,
        ge=1,
        le=MOST_TRAININGS,
    )
    adaptations: tuple[str, ...] = option(
        ("centroid",),
        "Methods (fewshot-bench ls adaptations), or groups of heads: all, all-inductive, all-transductive.",
        "method",
        flag="--adapt",
        min_length=1,
    )
    losses: tuple[str, ...] = option(
        ("ce",), "Losses of adaptations that train.", "method", flag="--loss", min_length=1
    )
    reading: Literal["in", "out"] | None = option(
        None, "How ce+schane reads Equation 4 of its paper. Default: in.", "method", is_axis=True
    )
    stop_gradient: Literal["none", "beta"] | None = option(
        None, "beta: ce+schane's weights of negatives are constants.", "method", is_axis=True
    )
    anchors: Literal["mean", "sum"] | None = option(
        None, "Mean or sum of the contrastive term over anchors.", "method", is_axis=True
    )
    choose: Literal["none", "support-cv", "ensemble"] = option(
        "none",
        "Choose hyper-parameters in each episode: cross-validate its support set, or average over a grid.",
        "method",
        is_axis=True,
    )
    hyper_parameters: dict[str, Any] = option(
        {}, "Hyper-parameters of the adaptations, such as C=10.", "method", flag="--set"
    )


class ComputingOptions(Options):
    """Where it is computed and kept; never changes an outcome."""

    device: str = option("auto", "auto, cpu, cuda, cuda:1, ...", "computing")
    chunk: int | None = option(None, "Episodes computed at once; never changes a result.", "computing", ge=1)
    results: ResultsPlace = option(
        Path("results"), "Results folder, or a URL such as s3://bucket/folder.", "output", metavar="FOLDER"
    )


class Study(EpisodeOptions, MethodOptions, ComputingOptions):
    """Everything that `fewshot-bench run` needs to know; the defaults are the built-in first study.

    Fields that are None take a default that depends on the others: the backbone on the dataset, the base
    losses on whether the backbone is pretrained, the hyper-parameters on the adaptation.

    >>> import fewshot_bench as fb
    >>> study = fb.Study(dataset="glyphs", adaptations=("centroid", "ridge"), shots=(1, 5))
    >>> study.way, study.query, study.split
    (5, 15, 'novel')
    >>> fb.Study(adaptation="centroid")
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.ArgumentError: Study has no argument 'adaptation'. Did you mean adaptations?
    """

    dataset: str = option(
        "glyphs",
        "Name (fewshot-bench data ls), or your own images: folder, archive, manifest, hf:NAME, torchvision:NAME.",
        "data",
    )
    backbone: str | None = option(
        None,
        "Names (fewshot-bench ls backbones), or timm:NAME. Default: Conv4 for glyphs, else EfficientNet-Lite0.",
        "method",
        is_fixed_by_checkpoint=True,
    )
    recipe: str | None = option(
        None,
        "Recipes (fewshot-bench ls recipes); trained if missing.",
        "method",
    )
    lambda_: Lambda = option(0.9, "Weight of the contrastive term.", "method", alias="lambda", is_axis=True)
    tau: Tau = option(0.5, "Temperature of the contrastive term.", "method", is_axis=True)
    baseline: str | None = option(None, "Method to test the others against (name or part of it).", "output")
    # fmt: on

    @model_validator(mode="before")
    @classmethod
    def _take_adaptation_of_recipe(cls, values: Any) -> Any:
        """Take the adaptation of the recipe unless others are given; refuse what would change its network."""
        if not isinstance(values, dict) or values.get("recipe") is None:
            return values
        given = next((name for name in FIXED_BY_RECIPE if values.get(name) is not None), None)
        if given is not None:
            raise StudyError(
                f"the recipe {values['recipe']} determines what {cls.flag(given)} would set. Leave it out."
            )
        named, dataset = named_recipe(values["recipe"]), str(values.get("dataset", "glyphs"))
        own_recipe = named.recipe(dataset)
        for name in ("lambda_", "tau"):
            if name not in values and cls.model_fields[name].alias not in values:
                values = {**values, name: getattr(own_recipe, name)}
        if values.get("adaptations") is None:
            settings = values.get("base_settings")
            changed = named.recipe(dataset, **settings) if isinstance(settings, dict) else None
            own = named.hyper_parameters(dataset, changed)
            values = {**values, "adaptations": (named.evaluation.adaptation,)}
            values["hyper_parameters"] = own | (values.get("hyper_parameters") or {})
        return values

    @model_validator(mode="before")
    @classmethod
    def _take_whole_dataset(cls, values: Any) -> Any:
        """Fill in what `protocol="full"` implies, and refuse what has no effect on it."""
        if not isinstance(values, dict) or values.get("protocol") != "full":
            return values
        for name in OF_FEW_SHOT:
            value = values.get(name)
            if value is not None and value != IMPLIED_BY_FULL.get(name):
                raise StudyError(
                    f"--protocol full tests every image of the test split once, so {cls.flag(name)} has no effect on "
                    "it. Leave it out."
                )
        adaptations = values.get("adaptations") or (_CLASSIFIER,)
        values = {**values, **IMPLIED_BY_FULL, "adaptations": adaptations}
        return values | cls._losses_of_training(values)

    @classmethod
    def _losses_of_training(cls, values: dict[str, Any]) -> dict[str, Any]:
        """The losses of the training on the train split, which --loss names too."""
        losses, base_losses = values.get("losses"), values.get("base_losses")
        if losses is not None and base_losses is not None and tuple(losses) != tuple(base_losses):
            raise StudyError(
                "--loss and --base-loss both name the losses of the training on the train split. Leave one of them out."
            )
        fixed_by = next((name for name in ("checkpoints", "recipe") if values.get(name) is not None), None)
        if fixed_by is not None:
            if losses is not None:
                raise StudyError(f"{cls.flag(fixed_by)} determines what --loss would set. Leave one of the two out.")
            return {}
        found = losses if losses is not None else base_losses
        if found is None and _CLASSIFIER in values["adaptations"]:
            found = ("ce",)
        if _CLASSIFIER in values["adaptations"] and not found:
            raise StudyError(
                "a network without training on the train split has no classifier of its classes. Use --loss ce, or "
                "leave out --base-loss none."
            )
        return {} if found is None else {"losses": tuple(found) or ("ce",), "base_losses": tuple(found)}

    @model_validator(mode="after")
    def _refuse_whole_episodes(self) -> Study:
        """Refuse the sampler of whole datasets in a few-shot study."""
        if self.protocol == "few-shot" and self.sampler == WHOLE_SAMPLER:
            raise StudyError("--sampler whole belongs to whole datasets. Use --protocol full instead.")
        return self

    @model_validator(mode="after")
    def _check_size(self) -> Study:
        """Raise StudyError for more cells, or episodes of one, than can be stored; no memory is taken yet."""
        lists = (self.shots, self.checkpoints, self.base_losses, self.adaptations, self.losses)
        cells = math.prod(len(values) for values in lists if values) * (self.training_seeds or 1)
        if cells > MOST_CELLS:
            raise StudyError(f"a study has at most {MOST_CELLS:,} cells, and this one {cells:,}. Divide it.")
        runs, episodes = self._asked("runs"), self._most_episodes()
        if runs * episodes > MOST_EPISODES:
            raise StudyError(
                f"all runs together should have at most {MOST_EPISODES:,} episodes, and these are {runs:,} runs of "
                f"{episodes:,}. Use fewer --episodes or --runs."
            )
        return self

    @property
    def is_whole(self) -> bool:
        """Whether it trains on a train split and tests every image of the test split."""
        return self.protocol == "full"

    @property
    def trained_split(self) -> SplitName:
        """The split that networks are trained on."""
        return "train" if self.is_whole else "base"

    @property
    def seeds_of_trainings(self) -> range:
        """The seeds with which each base stage is trained."""
        return range(self.training_seed, self.training_seed + (self.training_seeds or 1))

    @property
    def later_defaults(self) -> set[str]:
        """The later fields that have their default; see `LATER_FIELDS`."""
        return {name for name in LATER_FIELDS if getattr(self, name) == type(self).model_fields[name].default}

    @property
    def backbone_name(self) -> str:
        """The backbone, or the default for the dataset: Conv4 for glyphs, a pretrained network otherwise."""
        return self.backbone or ("conv4_32" if self.dataset == "glyphs" else "efficientnet_lite0")

    @property
    def own_options(self) -> OwnOptions:
        """How the user's own images become the dataset, if they are some."""
        return OwnOptions(
            fractions=self.fractions,
            seed=self.seed,
            least_images=self.least_images,
            class_depth=self.class_depth,
            layout=self.layout,
            root=self.root,
        )

    def protocols(self, class_sizes: Sequence[int] | None = None) -> list[Protocol]:
        """One protocol per number of shots; one in all for a whole dataset.

        Args:
            class_sizes: images per class of the split, [C]; without them the number of disjoint tasks is
                unknown, see `Protocol.episodes`.

        Raises:
            EpisodeError: a setting does not go with the sampler, or the split has too few classes, images or episodes.
        """
        if self.is_whole:
            return [whole_protocol(self.dataset, self.split, class_sizes)] if class_sizes is not None else []
        made = [
            Protocol(
                self.dataset,
                self.split,
                self.way,
                shot,
                self.query,
                self._most_episodes(),
                self._asked("runs"),
                self.seed,
                **{name: getattr(self, name) for name in SAMPLER_FIELDS},
            )
            for shot in self.shots
        ]
        return made if class_sizes is None else [resolved_protocol(protocol, class_sizes) for protocol in made]

    def _most_episodes(self) -> int:
        """Episodes of each run, or under `until_ci` the most that there may be."""
        if self.until_ci is None or self.sampler == "disjoint":
            return self._asked("episodes")
        return self.max_episodes or MOST_EPISODES_BY_DEFAULT

    def _asked(self, field: str) -> int:
        """A number of episodes or runs; the sampler's default where none was asked for and it has one of its own."""
        if self.sampler == "disjoint" and field not in self.model_fields_set:
            return SAMPLERS_DEFAULT
        return int(getattr(self, field))


class NamedHyperParameters(Options):
    """Hyper-parameters of adaptations that have an option of their own, beside `--set`."""

    tune: str | None = option(
        None,
        "What finetune trains: all, last:N, norm, bias, lora[:RANK], head, or combinations such as norm+last:N.",
        "method",
    )
    bn: str | None = option(None, "Batch norm of finetune: frozen, support or transductive.", "method")
    views: int | None = option(None, "Augmented views per image, made once; 0: new ones at each step.", "method")
    precision: str | None = option(None, "Precision of finetune: float32, bf16 or float64.", "method")

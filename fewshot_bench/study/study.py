"""A study as a user describes it: one dataset, backbones, adaptations and shots make a grid of cells.

What can be said about episodes, methods and computing, each field with its type and bounds in this one place.

A study has all of them; a study file has the first and the last once, and the second once per method.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator, model_validator

from fewshot_bench._io.locations import Place, place_of
from fewshot_bench.datasets import OwnOptions
from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.episodes import Protocol, resolved_protocol
from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT, SamplerName
from fewshot_bench.errors import StudyError
from fewshot_bench.limits import LARGEST_SEED, LARGEST_SIZE, LARGEST_WAY, MOST_CELLS, MOST_EPISODES, MOST_RUNS

Lambda = Annotated[float, Field(ge=0, le=1)]
"""Weight of the contrastive term."""

Tau = Annotated[float, Field(gt=0)]
"""Temperature of the contrastive term."""


def _results(value: object) -> Place:
    """The folder that a text names, or what is a folder already.

    Raises:
        ValueError: it is neither.
    """
    if not isinstance(value, str | Path) and not hasattr(value, "fs"):
        raise ValueError("Input should be a folder, or a URL such as s3://bucket/folder")
    return place_of(value)  # type: ignore[arg-type]  # what has a file system is a UPath, which is not imported here


ResultsPlace = Annotated[Place, PlainValidator(_results), PlainSerializer(str, when_used="json")]
"""Where results are kept: a folder, or a URL that fsspec knows."""


class Options(BaseModel):
    """Known fields only; those that need a trailing underscore in Python are written without it."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


class EpisodeOptions(Options):
    """Which episodes are drawn from a dataset."""

    split: SplitName = "novel"
    fractions: tuple[float, float, float] | None = None
    least_images: int = Field(default=1, ge=1)
    class_depth: int | None = Field(default=None, ge=1, le=8)
    layout: Literal["auto", "classes", "splits"] = "auto"
    way: int = Field(default=5, le=LARGEST_WAY)
    shots: tuple[Annotated[int, Field(le=LARGEST_SIZE)], ...] = Field(default=(1, 5), min_length=1)
    query: int = Field(default=15, le=LARGEST_SIZE)
    episodes: int = Field(default=3000, ge=1, le=MOST_EPISODES)
    runs: int = Field(default=3, ge=1, le=MOST_RUNS)
    until_ci: float | None = Field(default=None, gt=0, le=50)
    max_episodes: int | None = Field(default=None, ge=1, le=MOST_EPISODES)
    seed: int = Field(default=0, ge=-LARGEST_SEED, le=LARGEST_SEED)
    sampler: SamplerName = "standard"
    alpha: float | None = None
    least_way: int | None = None
    least_shot: int | None = None


class MethodOptions(Options):
    """What is done with each episode, apart from the backbone and the contrastive term's weight and temperature."""

    weights: Path | None = None
    checkpoints: tuple[str, ...] | None = None
    image_size: int | None = Field(default=None, ge=16, le=1024)
    interpolation: Literal["bicubic", "bilinear", "nearest"] | None = None
    base_losses: tuple[str, ...] | None = None
    base_epochs: int | None = Field(default=None, ge=1)
    base_batch: int | None = Field(default=None, ge=2)
    training_seed: int = Field(default=0, ge=-(1 << 63), lt=1 << 63)
    adaptations: tuple[str, ...] = Field(default=("centroid",), min_length=1)
    losses: tuple[str, ...] = Field(default=("ce",), min_length=1)
    hyper_parameters: dict[str, Any] = Field(default_factory=dict)
    choose: Literal["none", "support-cv", "ensemble"] = "none"
    reading: Literal["in", "out"] | None = None


class ComputingOptions(Options):
    """Where it is computed and kept; never changes an outcome."""

    device: str = "auto"
    chunk: int | None = Field(default=None, ge=1)
    results: ResultsPlace = Path("results")


MOST_EPISODES_BY_DEFAULT = 30_000
"""Of each run under `until_ci`, where nobody names another limit."""


class Study(EpisodeOptions, MethodOptions, ComputingOptions):
    """Everything that `fewshot-bench run` needs to know; the defaults are the built-in first study.

    Fields that are None take a default that depends on the others: the backbone on the dataset, the base
    losses on whether the backbone is pretrained, the hyper-parameters on the adaptation.
    """

    dataset: str = "glyphs"
    backbone: str | None = None
    lambda_: Lambda = Field(default=0.9, alias="lambda")
    tau: Tau = 0.5
    baseline: str | None = None

    @model_validator(mode="after")
    def _check_size(self) -> Study:
        """Refuse more than can be stored, before any memory is taken.

        Raises:
            StudyError: there are too many cells, or episodes of one.
        """
        lists = (self.shots, self.checkpoints, self.base_losses, self.adaptations, self.losses)
        cells = math.prod(len(values) for values in lists if values)
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
        )

    def protocols(self, class_sizes: Sequence[int] | None = None) -> list[Protocol]:
        """One protocol per number of shots.

        Args:
            class_sizes: images per class of the split, [C]; without them nobody knows how many disjoint tasks there
                are, see `Protocol.episodes`.

        Raises:
            EpisodeError: a setting does not go with the sampler, or the split has too few classes, images or episodes.
        """
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
                sampler=self.sampler,
                alpha=self.alpha,
                least_way=self.least_way,
                least_shot=self.least_shot,
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

"""What can be said about episodes, methods and computing, each field with its type and bounds in this one place.

A study has all of them; a study file has the first and the last once, and the second once per method.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, PlainSerializer, PlainValidator

from fewshot_bench.datasets.dataset import SplitName
from fewshot_bench.episodes.protocol import SamplerName
from fewshot_bench.limits import LARGEST_SEED, LARGEST_SIZE, LARGEST_WAY, MOST_EPISODES, MOST_RUNS
from fewshot_bench.paths import Place, place_of

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

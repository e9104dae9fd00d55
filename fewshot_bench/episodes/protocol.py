"""A protocol fixes every episode: which split, how large the tasks are, how many, the seed, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args
from typing import Protocol as Interface

from fewshot_bench._io.notebooks import ShownByFields
from fewshot_bench.arguments import checked_except
from fewshot_bench.datasets.dataset import SplitName, split_name
from fewshot_bench.errors import EpisodeError, UnknownNameError
from fewshot_bench.limits import (
    LARGEST_SEED,
    LARGEST_SIZE,
    LARGEST_TASK,
    LARGEST_WAY,
    MOST_EPISODES,
    MOST_RUNS,
    WHOLE_SAMPLER,
    task_size,
)

SAMPLER_VERSION = 1
SamplerName = Literal["standard", "disjoint", "dirichlet", "varied", "whole"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)

SAMPLERS_DEFAULT = -1
"""Stands for a number that the sampler decides."""

_EPISODES, _RUNS = 3000, 3
_SETTINGS: dict[SamplerName, dict[str, Any]] = {
    "standard": {},
    "disjoint": {},
    "dirichlet": {"alpha": 2.0},
    "varied": {"least_way": 2, "least_shot": 1},
    "whole": {},
}
_ONE_RUN: tuple[SamplerName, ...] = ("disjoint", "whole")
"""Samplers that use every image at most once: there is one run, and the class sizes decide how many episodes."""
_ALPHA_RANGE = (0.001, 1000)


class ProtocolFields(Interface):
    """The fields that decide which images are in an episode, of a protocol or of stored outcomes."""

    @property
    def dataset(self) -> str:
        """Name of the dataset."""

    @property
    def split(self) -> str:
        """Split of the dataset, such as "novel" or "test"."""

    @property
    def way(self) -> int:
        """N."""

    @property
    def shot(self) -> int:
        """K."""

    @property
    def query(self) -> int:
        """Q, queries per class."""

    @property
    def seed(self) -> int:
        """Any integer."""

    @property
    def sampler_version(self) -> int:
        """Version of the sampler."""

    @property
    def sampler(self) -> str:
        """Name of the sampler."""

    @property
    def sampler_settings(self) -> Mapping[str, Any]:
        """Settings of the sampler."""


@checked_except("way", "shot", "query", "episodes", "runs", "seed", "least_way", "least_shot")
@dataclass(frozen=True)
class Protocol(ShownByFields):
    """Everything that decides which images are in which episode.

    Attributes:
        dataset: name of the dataset.
        split: "base", "validation" or "novel"; "train", "validation" or "test" where the splits share their classes.
        way: N, classes per episode; the largest number if the sampler varies it, all of the split for "whole".
        shot: K, labelled images per class; the largest number if the sampler varies it, 0 for "whole" alone.
        query: Q, images per class to classify; the average if the sampler divides them unevenly; 1 in all for "whole".
        episodes: per run, 3,000 by default. The samplers "disjoint" and "whole" take all there are by default, which
            is `SAMPLERS_DEFAULT` until `resolved_protocol` knows the class sizes.
        runs: seeded sequences of episodes, 3 by default, and 1 for the samplers "disjoint" and "whole".
        seed: any integer.
        sampler_version: raised only if the sampler's output ever had to change.
        sampler: "standard" draws every task from the whole split, "disjoint" puts no image in two tasks, "dirichlet"
            divides the queries unevenly, "varied" draws way and shot too. "whole" draws nothing: episode i is image i
            of the split, which is classified among all classes without a support set.
        alpha: concentration of the "dirichlet" sampler, in thousandths from 0.001 to 1,000; 2 by default.
        least_way: smallest way of the "varied" sampler; 2 by default.
        least_shot: smallest shot of the "varied" sampler; 1 by default.

    Raises:
        EpisodeError: a value is out of range, or does not go with the sampler.
        UnknownNameError: there is no such sampler.

    >>> import fewshot_bench as fb
    >>> protocol = fb.Protocol("glyphs", way=5, shot=1)
    >>> protocol.query, protocol.episodes, protocol.runs
    (15, 3000, 3)
    >>> fb.Protocol("glyphs", shots=5)
    Traceback (most recent call last):
    ...
    fewshot_bench.errors.ArgumentError: Protocol has no argument 'shots'. Did you mean shot?
    """

    dataset: str
    split: SplitName = "novel"
    way: int = 5
    shot: int = 1
    query: int = 15
    episodes: int = SAMPLERS_DEFAULT
    runs: int = SAMPLERS_DEFAULT
    seed: int = 0
    sampler_version: int = SAMPLER_VERSION
    sampler: SamplerName = "standard"
    alpha: float | None = None
    least_way: int | None = None
    least_shot: int | None = None

    def __post_init__(self) -> None:
        sampler_name(self.sampler)
        self._fill_in()
        self._check_bounds()
        if self.sampler == "whole":
            self._check_whole()
        elif self.sampler == "disjoint" and self.runs != 1:
            raise EpisodeError(
                f"disjoint tasks use the images of a split once, so there is one run of them, not {self.runs}; another "
                "would use the same images again. Leave --runs out, and use another --seed for another division."
            )
        if self.alpha is not None:
            object.__setattr__(self, "alpha", _checked_alpha(self.alpha))
        self._check_least("way", self.least_way, 2, self.way)
        self._check_least("shot", self.least_shot, 1, self.shot)

    def _fill_in(self) -> None:
        """Set the defaults; raises EpisodeError if a setting belongs to another sampler."""
        defaults: dict[str, Any] = dict(_SETTINGS[self.sampler])
        for name in ("alpha", "least_way", "least_shot"):
            if getattr(self, name) is None:
                object.__setattr__(self, name, defaults.get(name))
            elif name not in defaults:
                owner = next(sampler for sampler, settings in _SETTINGS.items() if name in settings)
                raise EpisodeError(
                    f"--{name.replace('_', '-')} is for the {owner} sampler, not for {self.sampler}. "
                    f"Add --sampler {owner}, or leave it out."
                )
        if self.runs == SAMPLERS_DEFAULT:
            object.__setattr__(self, "runs", 1 if self.sampler in _ONE_RUN else _RUNS)
        if self.episodes == SAMPLERS_DEFAULT and self.sampler not in _ONE_RUN:
            object.__setattr__(self, "episodes", _EPISODES)

    def _check_whole(self) -> None:
        """Refuse numbers that a whole split cannot have: it has every image once, whatever the seed."""
        expected = {"shot": 0, "query": 1, "runs": 1, "seed": 0}
        for name, value in expected.items():
            if getattr(self, name) != value:
                raise EpisodeError(
                    f"the whole sampler takes every image of a split once, without a support set: its {name} is "
                    f"{value}, not {_shown(getattr(self, name))}."
                )

    def _check_bounds(self) -> None:
        """Refuse what cannot be stored; what is too small is refused when it is drawn.

        Raises:
            EpisodeError: a number is too large, or is not a whole number.
        """
        for name, most in (("way", LARGEST_WAY), ("shot", LARGEST_SIZE), ("query", LARGEST_SIZE), ("runs", MOST_RUNS)):
            if not _is_whole(value := getattr(self, name)) or value > most:
                option = "shots" if name == "shot" else name
                raise EpisodeError(f"--{option} should be a whole number of at most {most:,}, not {_shown(value)}.")
        if not _is_whole(self.seed) or abs(self.seed) > LARGEST_SEED:
            raise EpisodeError(f"--seed should be a whole number of at most 38 digits, not {_shown(self.seed)}.")
        if not _is_whole(self.episodes) or max(1, self.runs) * self.episodes > MOST_EPISODES:
            raise EpisodeError(
                f"all runs together should have at most {MOST_EPISODES:,} episodes, and these are {_shown(self.runs)} "
                f"runs of {_shown(self.episodes)}. Use fewer --episodes or --runs."
            )
        size = task_size(self.way, self.shot, self.query, self.sampler)
        if size > LARGEST_TASK:
            raise EpisodeError(
                f"episodes of {self.way:,} classes with {self.shot:,} shots and {self.query:,} queries take "
                f"{size:,} images; at most {LARGEST_TASK:,} are possible. Use a smaller --way, --shots or --query."
            )

    def _check_least(self, name: str, least: int | None, smallest: int, largest: int) -> None:
        """Refuse an empty range; an empty task is refused when it is drawn."""
        if least is None or largest < smallest:
            return
        if not isinstance(least, int) or not smallest <= least <= largest:
            raise EpisodeError(
                f"--least-{name} of the varied sampler should be from {smallest} to {largest}, the largest {name}, "
                f"not {least}."
            )

    @classmethod
    def of(cls, fields: ProtocolFields) -> Protocol:
        """The protocol of stored outcomes, without a number of episodes.

        Raises:
            EpisodeError: a setting of the sampler is missing, unknown or out of range, or the version is another.
            UnknownNameError: there is no such sampler or split.
        """
        if fields.sampler_version != SAMPLER_VERSION:
            raise EpisodeError(
                f"the episodes are of sampler version {fields.sampler_version}; this is version {SAMPLER_VERSION}. "
                "Use the release of fewshot-bench that made them."
            )
        sampler, settings = sampler_name(fields.sampler), dict(fields.sampler_settings)
        expected = _SETTINGS[sampler]
        if set(settings) != set(expected) or not all(isinstance(value, int | float) for value in settings.values()):
            raise EpisodeError(f"the {sampler} sampler takes {_listed(expected)}, not {settings}.")
        return cls(
            fields.dataset,
            split_name(fields.split),
            fields.way,
            fields.shot,
            fields.query,
            seed=fields.seed,
            sampler=sampler,
            **settings,
        )

    @property
    def name(self) -> str:
        """A short name for files and messages, e.g. "cifar-fs-5way-1shot" or "cifar-fs-5way-1shot-disjoint"."""
        split = "" if self.split == "novel" else f"-{self.split}"
        if self.sampler == WHOLE_SAMPLER:
            return f"{self.dataset}-whole-{self.split}"
        sampler = "" if self.sampler == "standard" else f"-{self.sampler}"
        default = _SETTINGS[self.sampler]
        others = [f"-{name.replace('_', '')}{v:g}" for name, v in self.sampler_settings.items() if v != default[name]]
        return f"{self.dataset}{split}-{self.way}way-{self.shot}shot{sampler}{''.join(others)}"

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """The settings of the sampler by name; none for the standard sampler."""
        return {name: getattr(self, name) for name in _SETTINGS[self.sampler]}

    @property
    def query_columns(self) -> int:
        """The largest number of queries of one class."""
        return self.way * self.query if self.sampler == "dirichlet" else self.query

    def as_fields(self) -> dict[str, Any]:
        """The fields for a lock file, without those of other samplers."""
        fields = asdict(self)
        if self.sampler == "standard":
            del fields["sampler"]
        return {name: value for name, value in fields.items() if value is not None}


def sampler_name(text: str) -> SamplerName:
    """Raise UnknownNameError unless there is a sampler of that name."""
    for name in SAMPLERS:
        if text == name:
            return name
    raise UnknownNameError("sampler", text, SAMPLERS)


def _checked_alpha(alpha: float) -> float:
    """Alpha as a float, so that 2 and 2.0 are the same."""
    low, high = _ALPHA_RANGE
    if not low <= alpha <= high or abs(1000 * alpha - round(1000 * alpha)) > 1e-6:
        raise EpisodeError(f"--alpha should be from {low} to {high:,} with at most three decimals, not {alpha}.")
    return round(1000 * alpha) / 1000


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value in a sentence; Python refuses to print very long whole numbers."""
    if isinstance(value, int) and abs(value) >= 10**50:
        return "one of more than 50 digits"
    return f"{value:,}" if isinstance(value, int) else repr(value)[:50]


def _listed(settings: Mapping[str, Any]) -> str:
    return " and ".join(settings) or "no settings"

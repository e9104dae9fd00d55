"""A protocol fixes every episode: which split, how large the tasks are, how many, the seed, and how they are drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args
from typing import Protocol as Interface

from fewshot_bench.datasets.dataset import SplitName, split_name
from fewshot_bench.errors import EpisodeError, UnknownNameError
from fewshot_bench.limits import (
    LARGEST_SEED,
    LARGEST_SIZE,
    LARGEST_TASK,
    LARGEST_WAY,
    MOST_EPISODES,
    MOST_RUNS,
    task_size,
)

SAMPLER_VERSION = 1
SamplerName = Literal["standard", "disjoint", "dirichlet", "varied"]
SAMPLERS: tuple[SamplerName, ...] = get_args(SamplerName)

SAMPLERS_DEFAULT = -1
"""A number that the sampler decides."""

_EPISODES, _RUNS = 3000, 3
_SETTINGS: dict[SamplerName, dict[str, Any]] = {
    "standard": {},
    "disjoint": {},
    "dirichlet": {"alpha": 2.0},
    "varied": {"least_way": 2, "least_shot": 1},
}
_ALPHA_RANGE = (0.001, 1000)


class ProtocolFields(Interface):
    """What decides which images are in an episode, as stored outcomes record it too."""

    @property
    def dataset(self) -> str:
        """Its name."""

    @property
    def split(self) -> str:
        """Which part of the dataset: "base", "validation" or "novel"."""

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
        """Of the sampler that drew the episodes."""

    @property
    def sampler(self) -> str:
        """Its name."""

    @property
    def sampler_settings(self) -> Mapping[str, Any]:
        """What it was told."""


@dataclass(frozen=True)
class Protocol:
    """Everything that decides which images are in which episode.

    Attributes:
        dataset: name of the dataset.
        split: "base", "validation" or "novel".
        way: N, classes per episode; the most of them where the sampler varies it.
        shot: K, labelled images per class; the most of them where the sampler varies it.
        query: Q, images per class to classify; on average where the sampler divides them unevenly.
        episodes: episodes per run, 3,000 by default. Of the disjoint sampler: all that there are, by default, which
            stays `SAMPLERS_DEFAULT` until `settled` knows the class sizes.
        runs: seeded sequences of episodes, 3 by default, and 1 of the disjoint sampler.
        seed: any integer.
        sampler_version: raised only if the sampler's output ever had to change.
        sampler: "standard": every task anew from the whole split. "disjoint": no image is in two tasks. "dirichlet":
            uneven queries. "varied": way and shot differ from task to task.
        alpha: of the symmetric Dirichlet distribution of the "dirichlet" sampler, in thousandths from 0.001 to 1,000;
            2 by default.
        least_way: of the "varied" sampler; 2 by default.
        least_shot: of the "varied" sampler; 1 by default.

    Raises:
        EpisodeError: a value is out of range, or does not go with the sampler.
        UnknownNameError: there is no such sampler.
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
        if self.sampler == "disjoint" and self.runs != 1:
            raise EpisodeError(
                f"disjoint tasks use the images of a split once, so there is one run of them, not {self.runs}; another "
                "would use the same images again. Leave --runs out, and use another --seed for another division."
            )
        if self.alpha is not None:
            object.__setattr__(self, "alpha", _checked_alpha(self.alpha))
        self._check_least("way", self.least_way, 2, self.way)
        self._check_least("shot", self.least_shot, 1, self.shot)

    def _fill_in(self) -> None:
        """Give what was left out its default.

        Raises:
            EpisodeError: a setting belongs to another sampler.
        """
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
            object.__setattr__(self, "runs", 1 if self.sampler == "disjoint" else _RUNS)
        if self.episodes == SAMPLERS_DEFAULT and self.sampler != "disjoint":
            object.__setattr__(self, "episodes", _EPISODES)

    def _check_bounds(self) -> None:
        """Refuse what cannot be stored, before any memory is taken; what is too small is refused when it is drawn.

        Raises:
            EpisodeError: a number is too large, or is none.
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
        """Refuse an empty range; a task that would itself be empty is refused when it is drawn."""
        if least is None or largest < smallest:
            return
        if not isinstance(least, int) or not smallest <= least <= largest:
            raise EpisodeError(
                f"--least-{name} of the varied sampler should be from {smallest} to {largest}, the largest {name}, "
                f"not {least}."
            )

    @classmethod
    def of(cls, fields: ProtocolFields) -> Protocol:
        """The protocol that stored outcomes name; how many episodes there are, they do not say.

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
        sampler = "" if self.sampler == "standard" else f"-{self.sampler}"
        default = _SETTINGS[self.sampler]
        others = [f"-{name.replace('_', '')}{v:g}" for name, v in self.sampler_settings.items() if v != default[name]]
        return f"{self.dataset}{split}-{self.way}way-{self.shot}shot{sampler}{''.join(others)}"

    @property
    def sampler_settings(self) -> dict[str, Any]:
        """What the sampler was told, by name; empty for the standard one."""
        return {name: getattr(self, name) for name in _SETTINGS[self.sampler]}

    @property
    def query_columns(self) -> int:
        """The most queries that one class of an episode can have."""
        return self.way * self.query if self.sampler == "dirichlet" else self.query

    def as_fields(self) -> dict[str, Any]:
        """The fields that mean something, e.g. for a lock file; those of other samplers are left out."""
        fields = asdict(self)
        if self.sampler == "standard":
            del fields["sampler"]
        return {name: value for name, value in fields.items() if value is not None}


def sampler_name(text: str) -> SamplerName:
    """Check a sampler's name.

    Raises:
        UnknownNameError: there is no such sampler.
    """
    for name in SAMPLERS:
        if text == name:
            return name
    raise UnknownNameError("sampler", text, SAMPLERS)


def _checked_alpha(alpha: float) -> float:
    """Alpha as a float: outcomes of alpha 2 and of alpha 2.0 are the same."""
    low, high = _ALPHA_RANGE
    if not low <= alpha <= high or abs(1000 * alpha - round(1000 * alpha)) > 1e-6:
        raise EpisodeError(f"--alpha should be from {low} to {high:,} with at most three decimals, not {alpha}.")
    return round(1000 * alpha) / 1000


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _shown(value: object) -> str:
    """A value in a sentence; Python itself refuses to write the longest whole numbers."""
    if isinstance(value, int) and abs(value) >= 10**50:
        return "one of more than 50 digits"
    return f"{value:,}" if isinstance(value, int) else repr(value)[:50]


def _listed(settings: Mapping[str, Any]) -> str:
    return " and ".join(settings) or "no settings"

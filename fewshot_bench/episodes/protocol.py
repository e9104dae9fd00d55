"""A protocol fixes every episode: which split, how large the tasks are, how many, and the seed."""

from __future__ import annotations

from dataclasses import dataclass

from fewshot_bench.datasets.dataset import SplitName

SAMPLER_VERSION = 1


@dataclass(frozen=True)
class Protocol:
    """Everything that decides which images are in which episode.

    Attributes:
        dataset: name of the dataset.
        split: "base", "validation" or "novel".
        way: N, classes per episode.
        shot: K, labelled images per class.
        query: Q, images per class to classify.
        episodes: episodes per run.
        runs: seeded sequences of episodes.
        seed: any integer.
        sampler_version: raised only if the sampler's output ever had to change.
    """

    dataset: str
    split: SplitName = "novel"
    way: int = 5
    shot: int = 1
    query: int = 15
    episodes: int = 3000
    runs: int = 3
    seed: int = 0
    sampler_version: int = SAMPLER_VERSION

    @property
    def name(self) -> str:
        """A short name for files and messages, e.g. "cifar-fs-5way-1shot"."""
        split = "" if self.split == "novel" else f"-{self.split}"
        return f"{self.dataset}{split}-{self.way}way-{self.shot}shot"

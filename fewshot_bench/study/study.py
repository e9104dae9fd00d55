"""A study as a user describes it: one dataset, backbones, adaptations and shots make a grid of cells."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pydantic import Field, model_validator

from fewshot_bench.episodes import Protocol, settled
from fewshot_bench.episodes.protocol import SAMPLERS_DEFAULT
from fewshot_bench.errors import StudyError
from fewshot_bench.limits import MOST_CELLS
from fewshot_bench.limits import MOST_EPISODES as MOST_OF_A_CELL
from fewshot_bench.study.options import ComputingOptions, EpisodeOptions, Lambda, MethodOptions, Tau

MOST_EPISODES = 30_000
"""Of each run under `until_ci`, where nobody names another limit."""


class Study(EpisodeOptions, MethodOptions, ComputingOptions):
    """Everything that `fewshot-bench run` needs to know; the defaults are the built-in first study.

    Fields that are None take a default that depends on the others: the backbone on the dataset, the base
    losses on whether the backbone is pretrained, the hyper-parameters on the adaptation.
    """

    dataset: str = "glyphs"
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
        if runs * episodes > MOST_OF_A_CELL:
            raise StudyError(
                f"all runs together should have at most {MOST_OF_A_CELL:,} episodes, and these are {runs:,} runs of "
                f"{episodes:,}. Use fewer --episodes or --runs."
            )
        return self

    @property
    def backbone_name(self) -> str:
        """The backbone, or the default for the dataset: Conv4 for glyphs, a pretrained network otherwise."""
        return self.backbone or ("conv4_32" if self.dataset == "glyphs" else "efficientnet_lite0")

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
        return made if class_sizes is None else [settled(protocol, class_sizes) for protocol in made]

    def _most_episodes(self) -> int:
        """Episodes of each run, or under `until_ci` the most that there may be."""
        if self.until_ci is None or self.sampler == "disjoint":
            return self._asked("episodes")
        return self.max_episodes or MOST_EPISODES

    def _asked(self, field: str) -> int:
        """A number of episodes or runs; the sampler's default where none was asked for and it has one of its own."""
        if self.sampler == "disjoint" and field not in self.model_fields_set:
            return SAMPLERS_DEFAULT
        return int(getattr(self, field))

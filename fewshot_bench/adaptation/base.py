"""What every adaptation is: a frozen set of hyper-parameters that turns episodes into scores."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, get_args

from torch import Tensor

from fewshot_bench.adaptation.embedded_split import EmbeddedSplit, Features
from fewshot_bench.errors import StudyError
from fewshot_bench.registry import Registry


@dataclass(frozen=True, kw_only=True)
class Adaptation(ABC):
    """What is done with a support set.

    Subclasses are frozen dataclasses whose fields are the hyper-parameters; all of them go into the method's
    fingerprint, and those that differ from the default into its name.
    """

    name: ClassVar[str]

    @property
    def is_transductive(self) -> bool:
        """Whether the queries of an episode may inform each other's predictions."""
        return False

    @property
    def stage(self) -> str:
        """The part of the method's name before the adaptation, e.g. "episode-ce"; empty for none."""
        return ""

    def hyper_parameters(self) -> dict[str, Any]:
        """Every hyper-parameter by name."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class EmbeddingAdaptation(Adaptation):
    """Support embeddings -> query scores, for a whole chunk of episodes at once, on frozen embeddings.

    Attributes:
        features: what is done with the embeddings first, see `EmbeddedSplit.with_features`.
    """

    features: Features = "l2"

    def __post_init__(self) -> None:
        """Refuse values out of range.

        Raises:
            StudyError: a hyper-parameter is not what it should be.
        """
        if self.features not in get_args(Features):
            raise StudyError(f"features of {self.name} should be raw, l2 or cl2, not {self.features}.")

    @property
    def augmented_views(self) -> int:
        """How many augmented views of every image it needs beside the plain one."""
        return 0

    @abstractmethod
    def scores(self, split: EmbeddedSplit, support: Tensor, query: Tensor) -> Tensor:
        """Score every query of every episode against every class.

        Args:
            split: embeddings of the split, already transformed to `self.features`.
            support: image indices of the support sets, int64 [E, N, K].
            query: image indices of the queries, int64 [E, M].

        Returns:
            Scores, higher is closer, [E, M, N]. They never depend on which other episodes are in the chunk.
        """

    def floats_per_episode(self, way: int, shot: int, queries: int, embedding_size: int) -> int:
        """An upper estimate of the numbers held per episode at once; the engine sizes chunks by it.

        The default counts gathered support and query embeddings.
        """
        return 2 * (way * shot + queries) * embedding_size + 4 * queries * way * shot


ADAPTATIONS: Registry[Callable[..., Adaptation]] = Registry("adaptation")

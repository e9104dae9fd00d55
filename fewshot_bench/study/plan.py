"""What one command runs: studies that share a results folder, a leaderboard and a page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from fewshot_bench.errors import StudyError
from fewshot_bench.paths import Place
from fewshot_bench.study.outputs import Outputs
from fewshot_bench.study.study import Study


@dataclass(frozen=True, kw_only=True)
class StudyPlan:
    """Several studies that belong together.

    Attributes:
        name: of the whole.
        studies: in the order in which they run; all with the same results folder.
        places: where each is described, such as "study.toml, line 12", for a complaint; empty for a command line.
        baselines: method that the others are tested against, by the dataset as it was named.
        outputs: what is written at the end.
    """

    name: str
    studies: tuple[Study, ...]
    places: tuple[str, ...]
    baselines: Mapping[str, str] = field(default_factory=dict)
    outputs: Outputs = field(default_factory=Outputs)

    @classmethod
    def of_options(cls, study: Study, backbones: Sequence[str] = ()) -> StudyPlan:
        """What the options of a command line describe: one study, or one per backbone.

        Args:
            study: the whole but for the backbones.
            backbones: each counts once; the study's own where there is none.

        Raises:
            StudyError: an interval is to stop several networks, which would not share their episodes.
        """
        baselines = {} if study.baseline is None else {study.dataset: study.baseline}
        studies = [study.model_copy(update={"backbone": name}) for name in dict.fromkeys(backbones)] or [study]
        if len(studies) > 1 and study.until_ci is not None:
            raise StudyError(
                "--until-ci stops the methods of one network together, so that they share their episodes; --backbone "
                f"names {len(studies)}. Say --episodes instead, or name one backbone at a time."
            )
        return cls(name="", studies=tuple(studies), places=("",) * len(studies), baselines=baselines)

    def into(self, results: Place) -> StudyPlan:
        """The same studies with another results folder."""
        return replace(self, studies=tuple(study.model_copy(update={"results": results}) for study in self.studies))

    @property
    def results(self) -> Place:
        """The folder of outcomes and of everything that is written at the end."""
        return self.studies[0].results

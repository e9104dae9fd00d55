"""Groups of adaptations: all heads on frozen embeddings, or the inductive or the transductive ones among them.

A group is expanded when a study is planned, and its members are what is recorded: a later version may know more.
"""

from __future__ import annotations

from fewshot_bench.adaptation import EmbeddingAdaptation
from fewshot_bench.adaptation.hyper_parameter_choice import OneShotError
from fewshot_bench.datasets import Dataset
from fewshot_bench.errors import StudyError
from fewshot_bench.study.known_names import GROUPS
from fewshot_bench.study.methods import adaptations_of, members_of
from fewshot_bench.study.study import Study


def expanded(study: Study, dataset: Dataset | None = None) -> tuple[Study, tuple[str, ...]]:
    """Put the members of groups into their place, without those that cannot run.

    Args:
        study: any; one without groups stays as it is.
        dataset: the images, where they are open: it may have no base split.

    Returns:
        The study, and for each member that is left out why, in one sentence.

    Raises:
        StudyError: no member of a group can run, or what is named needs a base split that is not there.
    """
    for name in study.adaptations:
        if name not in GROUPS and (reason := _lacks_base(study, name, dataset)) is not None:
            raise StudyError(f"{name} cannot run: {reason}")
    if not any(name in GROUPS for name in study.adaptations):
        return study, ()
    names: dict[str, None] = {}
    left_out: dict[str, str] = {}
    named = [name for name in study.adaptations if name not in GROUPS]
    for name in study.adaptations:
        if name not in GROUPS:
            names[name] = None
            continue
        members = members_of(name)
        why = {
            one: reason for one in members if one not in named and (reason := _why_not(study, one, dataset)) is not None
        }
        if members and len(why) == len(members):
            raise StudyError(f"none of the heads in '{name}' can run here: {why[members[0]]}")
        names |= dict.fromkeys(one for one in members if one not in why)
        left_out |= {one: f"{one} is left out of {name}: {reason}" for one, reason in why.items()}
        if not members:
            raise StudyError(f"{name} has no members.")
    return study.model_copy(update={"adaptations": tuple(names)}), tuple(left_out.values())


def _why_not(study: Study, name: str, dataset: Dataset | None) -> str | None:
    """Why an adaptation cannot run in a study, in one sentence; None where it can as far as is known."""
    try:
        adaptations_of(study, name)
    except OneShotError as error:
        return str(error)
    return _lacks_base(study, name, dataset)


def _lacks_base(study: Study, name: str, dataset: Dataset | None) -> str | None:
    """What an adaptation needs of a base split that a dataset does not have, in one sentence."""
    if dataset is None or "base" in dataset.splits:
        return None
    needs = next((need for one in adaptations_of(study, name) if (need := _need_of_base(one)) is not None), None)
    if needs is None:
        return None
    setting, instead = needs
    return f"{setting} needs a base split, which {dataset.name} does not have. Use {instead}."


def _need_of_base(adaptation: object) -> tuple[str, str] | None:
    """The setting of an adaptation that needs the base split, and the one that does not."""
    if isinstance(adaptation, EmbeddingAdaptation):
        if adaptation.features == "cl2":
            return "features=cl2", "features=l2"
        if adaptation.needs_base_covariance:
            return "covariance=base", "covariance=support"
    return None

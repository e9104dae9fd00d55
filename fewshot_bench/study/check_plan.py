"""What is wrong with the studies of a plan, found before anything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from fewshot_bench.engine.engine import chosen_device
from fewshot_bench.errors import ComparisonError, FewshotBenchError, StudyError
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.study_log import StudyRecord
from fewshot_bench.progress import SILENT, Progress
from fewshot_bench.report import method_labels, resolve_method
from fewshot_bench.study.execute import fitting_protocols, opened_dataset, record_of
from fewshot_bench.study.method_groups import expanded
from fewshot_bench.study.methods import planned_adaptations
from fewshot_bench.study.networks import Networks
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.stopping import stopping_rule
from fewshot_bench.study.study import Study


@contextmanager
def located(place: str) -> Iterator[None]:
    """Say of an error where in a file the study is that has it.

    Args:
        place: such as "study.toml, line 12"; nothing is said where it is empty.

    Raises:
        FewshotBenchError: as it was raised, or a StudyError that begins with the place.
    """
    try:
        yield
    except FewshotBenchError as error:
        if not place:
            raise
        raise StudyError(f"{place}: {error}") from error


def check_plan(plan: StudyPlan, progress: Progress = SILENT) -> list[StudyRecord]:
    """Find what is wrong in any study of a plan, without computing anything.

    Datasets are opened, networks are made, and weights may be fetched; nothing is trained, embedded or written.

    Args:
        plan: the studies.
        progress: shown the import of a user's own images.

    Returns:
        What each of them is going to do.

    Raises:
        FewshotBenchError: a name is unknown, the data is absent, the protocol does not fit the split, or no method is
            called like the baseline or like one that has a label.
        OSError: the folder of the results cannot be written to.
    """
    OutcomeStore(plan.results / "outcomes").check_folder()
    names: dict[str, list[str]] = {}
    records, networks = [], Networks()
    for study, place in zip(plan.studies, plan.places, strict=True):
        with located(place):
            records.append(_checked(study, networks, progress))
            names.setdefault(study.dataset, []).extend(cell.method for cell in records[-1].cells)
    for dataset, baseline in plan.baselines.items():
        with located(f"baseline of {dataset}" if plan.name else ""):
            resolve_method(names[dataset], baseline)
    with located("labels of outputs"):
        check_labels(plan, names)
    return records


def check_labels(plan: StudyPlan, names: Mapping[str, Sequence[str]]) -> None:
    """Refuse labels of methods that are not there, and one label for two methods of a dataset.

    Args:
        plan: with the labels.
        names: of the methods of each dataset.

    Raises:
        UnknownNameError, ComparisonError: see `method_labels`.
    """
    labels = method_labels([name for same in names.values() for name in same], plan.outputs.labels.items())
    for same in names.values():
        owners: dict[str, str] = {}
        for name in dict.fromkeys(same):
            label = labels.get(name, name)
            if owners.setdefault(label, name) != name:
                raise ComparisonError(f"{owners[label]} and {name} would both be called '{label}'.")


def _checked(study: Study, networks: Networks, progress: Progress) -> StudyRecord:
    """The record of a study, where nothing is wrong with it."""
    stopping_rule(study)
    chosen_device(study.device)
    planned_adaptations(expanded(study)[0])
    dataset = opened_dataset(study, progress)
    study, _ = expanded(study.model_copy(update={"dataset": dataset.name}), dataset)
    adaptations = planned_adaptations(study)
    fitting_protocols(study, dataset)
    return record_of(study, dataset, networks.stages(study, dataset), adaptations)

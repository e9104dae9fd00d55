"""The recorded study, which a stranger may have written: only known fields, and nothing that would be executed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from fewshot_bench.errors import FewshotBenchError
from fewshot_bench.outcomes import Cell

if TYPE_CHECKING:
    from fewshot_bench.study import Study


@dataclass(frozen=True)
class StudyRecord:
    """The study that a cell records.

    Attributes:
        study: as it can be run again; None where it cannot.
        reason: why not.
        renamed: that the weights have another name than in the record, in words; empty where they have the same. What
            they hold decides whether they are those of the method.
    """

    study: Study | None
    reason: str = ""
    renamed: str = ""


def recorded_study(cell: Cell, *, weights: Path | None, trusts_code: bool) -> StudyRecord:
    """The study that made a cell, cut down to the one method of the cell.

    Args:
        cell: with its provenance.
        weights: the auditor's copy of the file of weights, which the record only names.
        trusts_code: whether what is named `module:callable` may be imported.
    """
    from pydantic import ValidationError

    from fewshot_bench.study import Study
    from fewshot_bench.study.admission import admit_checkpoints, admit_fields

    record = cell.provenance.get("study")
    if not isinstance(record, Mapping):
        return StudyRecord(None, "the outcomes do not record the study that made them")
    try:
        study = Study.model_validate({**record, **_of_this_cell(cell, record)})
    except ValidationError as error:
        first = error.errors()[0]
        return StudyRecord(None, f"the recorded study is none: {'.'.join(map(str, first['loc']))}: {first['msg']}")
    if trusts_code:
        try:
            admit_fields(study.model_dump(exclude={"dataset"}))  # images are those that are here
            admit_checkpoints(study.checkpoints or ())
        except FewshotBenchError as error:
            return StudyRecord(None, str(error))
    if study.weights is None:
        return StudyRecord(study)
    name = PurePath(study.weights).name
    if weights is None:
        return StudyRecord(None, f"the file of weights, {name}, is not part of the outcomes; give it with --weights")
    renamed = f"the study used the weights {name}, and --weights is {weights.name}" if weights.name != name else ""
    return StudyRecord(study.model_copy(update={"weights": weights}), renamed=renamed)


def _of_this_cell(cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    """Fields that leave the cell's own method of the study's several, so that no others are trained."""
    from fewshot_bench.adaptation import ADAPTATIONS

    fields: dict[str, Any] = {}
    adaptations = record.get("adaptations")
    named = [name for name in adaptations if isinstance(name, str)] if isinstance(adaptations, list) else []
    own = [name for name in named if ADAPTATIONS.target_of(name) == cell.method.adaptation]
    if own:
        fields["adaptations"] = own
        fields["hyper_parameters"] = _own_settings(cell, record)
        settings = cell.method.hyper_parameters.get("adaptation")
        if isinstance(settings, Mapping) and "choose" not in settings:  # in a list with others it was left as it is
            fields["choose"] = "none"
    base = cell.method.hyper_parameters.get("base")
    loss = base.get("loss") if isinstance(base, Mapping) else None
    if isinstance(loss, str) and record.get("checkpoints") is None:
        fields["base_losses"] = [loss]
    return fields


def _own_settings(cell: Cell, record: Mapping[str, Any]) -> dict[str, Any]:
    """Of the hyper-parameters of all adaptations of a study those that this one has."""
    chosen = record.get("hyper_parameters")
    own = cell.method.hyper_parameters.get("adaptation")
    if not isinstance(chosen, Mapping) or not isinstance(own, Mapping):
        return {}
    tried = own.get("grid")
    names = {*own, *(tried if isinstance(tried, Mapping) else ())}
    return {name: value for name, value in chosen.items() if name in names}

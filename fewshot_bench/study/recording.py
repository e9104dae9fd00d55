"""What a study is going to do, written down before it is done: see `fewshot_bench.outcomes.study_record`."""

from __future__ import annotations

from collections.abc import Sequence

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.datasets import Dataset
from fewshot_bench.engine.adapt import protocol_card
from fewshot_bench.outcomes.study_record import PlannedCell, StudyRecord
from fewshot_bench.study.methods import method_name
from fewshot_bench.study.named_stages import NamedStage
from fewshot_bench.study.provenance import study_record
from fewshot_bench.study.study import Study


def record_of(
    study: Study, dataset: Dataset, stages: Sequence[NamedStage], adaptations: Sequence[Adaptation]
) -> StudyRecord:
    """The record of a study; nothing is written yet.

    Args:
        study: of one dataset.
        dataset: that.
        stages: of its backbones.
        adaptations: what is done after each of them.
    """
    cells = [
        PlannedCell(
            dataset.name,
            protocol_card(protocol, dataset.fingerprint).task,
            method_name(*stage, adaptation),
            protocol.runs,
            protocol.episodes,
            adaptation.is_transductive,
        )
        for stage in stages
        for adaptation in adaptations
        for protocol in study.protocols(dataset.split(study.split).class_sizes)
    ]
    return StudyRecord(study.results, tuple(cells), study_record(study), study.until_ci is not None)

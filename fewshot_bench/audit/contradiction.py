"""What a recorded study says otherwise than the method it is recorded with, seen before anything is made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fewshot_bench.adaptation import Adaptation
from fewshot_bench.code_identity import what_changed
from fewshot_bench.outcomes import Cell, MethodCard
from fewshot_bench.study import Study
from fewshot_bench.study.stages import backbone_of_hub

_OF_THE_STUDY = {"base_epochs": "epochs", "base_batch": "batch_size"}
"""Fields that a base stage takes as they are, whichever version runs it, and what it calls them."""


def contradictions(cell: Cell, study: Study) -> list[str]:
    """Where the study itself says otherwise than the method, whichever version of this project made it.

    Nothing is trained, fetched or imported for it.

    Args:
        cell: whose method.
        study: that is recorded with it.

    Returns:
        Each in words; empty where there is none.
    """
    return list(_contradictions(cell.method, study))


def _contradictions(card: MethodCard, study: Study) -> Iterator[str]:
    named = backbone_of_hub(study)
    if named not in (None, card.backbone):
        yield told("backbone", named, card.backbone)
    base = card.hyper_parameters.get("base")
    if study.checkpoints is not None or not isinstance(base, Mapping) or not base:
        return
    for field, setting in _OF_THE_STUDY.items():
        said = getattr(study, field)
        if said is not None and base.get(setting) != said:
            yield told(f"hyper_parameters.base.{setting}", said, base.get(setting, "absent"))


def differences_of_adaptations(stored: MethodCard, adaptations: Sequence[Adaptation]) -> list[str]:
    """In what the nearest adaptation of a study differs from that of a method; empty where one is the same.

    Args:
        stored: the method.
        adaptations: of the study.
    """
    settings = stored.hyper_parameters
    cards = [
        replace(
            stored,
            adaptation=adaptation.name,
            hyper_parameters={**settings, "adaptation": adaptation.hyper_parameters()},
            is_transductive=adaptation.is_transductive,
            assumes_balanced_queries=adaptation.assumes_balanced_queries,
        )
        for adaptation in adaptations
    ]
    return min((differences_of(stored, card) for card in cards), key=len, default=["it has no method"])


def differences_of(stored: MethodCard, here: MethodCard) -> list[str]:
    """Everything in which two methods differ but for their names, e.g. "weights is 0a.. here and 1b.. in ..."."""
    mine, theirs = (_flat({**asdict(card), "code": {}}) for card in (stored, here))
    names = [name for name in sorted(mine.keys() | theirs.keys()) if name != "name"]
    return differences_of_code(stored, here) + [
        told(name, theirs.get(name, "absent"), mine.get(name, "absent"))
        for name in names
        if mine.get(name, "absent") != theirs.get(name, "absent")
    ]


def differences_of_code(stored: MethodCard, here: MethodCard) -> list[str]:
    """The parts of a method whose code here is not that which made the outcomes, in words that begin with "code"."""
    return [
        f"code of the {part} here is not that which made the outcomes ({what_changed(stored.code.get(part), now)})"
        for part in sorted(stored.code.keys() | here.code.keys())
        if (now := here.code.get(part)) != stored.code.get(part)
    ]


def told(name: str, here: Any, stored: Any) -> str:
    """One difference in words.

    Args:
        name: of the setting.
        here: as the study has it.
        stored: as the outcomes have it.
    """
    return f"{name} is {_short(here)} here and {_short(stored)} in the outcomes"


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 24 else f"{text[:12]}..."

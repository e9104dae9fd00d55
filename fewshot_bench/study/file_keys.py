"""The keys of a study file, read off its models: which there are, and which take several values."""

from __future__ import annotations

from typing import Any, get_args, get_origin

from pydantic.fields import FieldInfo

from fewshot_bench.study.options import Options
from fewshot_bench.study.outputs import Outputs
from fewshot_bench.study.positions import KeyPath
from fewshot_bench.study.study_file import MethodTable, StudyFile

_NONE = "none"


def model_at(path: KeyPath) -> type[Options] | None:
    """The model of the table that a path leads to; None where it leads to free keys or to a value."""
    if not path:
        return StudyFile
    if path[0] == "methods" and len(path) == 2 and isinstance(path[1], int):
        return MethodTable
    return Outputs if path == ("outputs",) else None


def fields_of(model: type[Options]) -> dict[str, FieldInfo]:
    """The fields of a model by their names in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def known_keys(path: KeyPath, *, with_hyper_parameters: bool = False) -> list[str]:
    """The keys of the table that a path leads to.

    Args:
        path: of the table.
        with_hyper_parameters: also those of all adaptations, as `hyper_parameters.NAME`, where they may stand.
    """
    model = model_at(path)
    keys = [] if model is None else list(fields_of(model))
    if with_hyper_parameters and "hyper_parameters" in keys:
        from fewshot_bench.adaptation import ADAPTATIONS

        keys += sorted({f"hyper_parameters.{name}" for adaptation in ADAPTATIONS.names() for name in _own(adaptation)})
    return keys


def _own(adaptation: str) -> set[str]:
    from fewshot_bench.study.methods import hyper_parameters_of

    return {name for name in hyper_parameters_of(adaptation) if name != "loss" and not name.endswith("_")}


def takes_several(path: KeyPath) -> bool:
    """Whether the value of a key is a list."""
    model = model_at(path[:-1])
    field = None if model is None else fields_of(model).get(str(path[-1]))
    return field is not None and _has_tuple(field.annotation)


def _has_tuple(annotation: Any) -> bool:
    return get_origin(annotation) is tuple or any(_has_tuple(part) for part in get_args(annotation))


def normalised(data: dict[str, Any]) -> dict[str, Any]:
    """What a file says, with a list of one where a value stands alone for it, and no base loss where it says "none".

    Args:
        data: as TOML gives it.
    """
    content = _with_lists(data, ())
    if isinstance(content.get("methods"), list):
        content["methods"] = [
            _with_lists(table, ("methods", number)) if isinstance(table, dict) else table
            for number, table in enumerate(content["methods"])
        ]
    return content


def _with_lists(table: dict[str, Any], path: KeyPath) -> dict[str, Any]:
    return {key: _as_list(key, value) if takes_several((*path, key)) else value for key, value in table.items()}


def _as_list(key: str, value: Any) -> Any:
    if key == "base_losses" and value in (_NONE, [_NONE]):
        return []
    return [value] if isinstance(value, str | int | float) and key != "methods" else value

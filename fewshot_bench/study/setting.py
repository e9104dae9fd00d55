"""The setting that a sweep has chosen, as a TOML file that `run` reads; it is data, and only known fields count."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import tomli_w
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fewshot_bench.atomic import write_atomically
from fewshot_bench.errors import IrregularFileError, OutcomeError, StudyError
from fewshot_bench.named_code import is_code
from fewshot_bench.report.wording import value_text
from fewshot_bench.stored_files import read_named
from fewshot_bench.study.grid import NOT_OF_THE_METHOD, Value, swept_fields
from fewshot_bench.study.study import Study
from fewshot_bench.toml import tomllib

RULE = "highest mean accuracy over the shots on the validation split; ties go to the earlier point of the grid"
_LARGEST = 1_000_000  # bytes
_HEADER = "# Chosen by fewshot-bench sweep. Use it: fewshot-bench run --setting THIS_FILE\n\n"


class Setting(BaseModel):
    """What a sweep chose, and from what.

    Attributes:
        chosen: the winning value of every axis of the grid.
        method: the other fields of the study that say what was run, where they differ from a study's defaults.
        rule: how it was chosen.
        accuracy: of the chosen setting in %, by shot: mean, 95% half-width, median of the run means.
        budget: shots, episodes and runs of each, points of the grid and how many were run, seconds.
        grid: every value of every axis.
        protocol: what fixes the episodes, with the fingerprint of the dataset.
        versions: of the packages that can change a result.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    format: Literal["fewshot-bench setting 1"] = "fewshot-bench setting 1"
    sweep: str
    rule: str
    chosen: dict[str, Value] = Field(min_length=1)
    method: dict[str, Any]
    accuracy: dict[str, dict[str, float]]
    budget: dict[str, Any]
    grid: dict[str, list[Value]]
    protocol: dict[str, Any]
    versions: dict[str, str]

    def names_code(self) -> bool:
        """Whether it names code, which `run` imports only where it is trusted."""
        named = [self.method.get(name) for name in ("backbone", "adaptations", "losses", "base_losses")]
        texts = [
            text
            for value in (*named, *self.chosen.values())
            for text in (value if isinstance(value, list) else [value])
        ]
        return any(isinstance(text, str) and is_code(text) and not text.startswith("timm:") for text in texts)

    def applied_to(self, fields: Mapping[str, Any], typed: Mapping[str, Any], source: str) -> dict[str, Any]:
        """Fields of a study with the chosen values in them.

        Args:
            fields: of the study without this setting.
            typed: those of them that a user gave explicitly. They take precedence over what the sweep left as it
                was; what it chose, they may repeat but not change.
            source: what to call this setting in a message.

        Raises:
            StudyError: a typed value contradicts a chosen one.
        """
        swept = swept_fields()
        own = typed.get("hyper_parameters", {})
        for name, value in self.chosen.items():
            given = typed.get(swept[name], value) if name in swept else own.get(name, value)
            if given != value:
                option = f"--{name.replace('_', '-')} " if name in swept else f"--set {name}="
                raise StudyError(
                    f"{option}{value_text(given)} contradicts {source}, which chose {value_text(value)}. "
                    "Leave out one of them."
                )
        fixed = {name: value for name, value in self.method.items() if name not in typed}
        others = {name: value for name, value in self.chosen.items() if name not in swept}
        hyper_parameters = {**self.method.get("hyper_parameters", {}), **own, **others}
        chosen = {swept[name]: value for name, value in self.chosen.items() if name in swept}
        return {**fields, **fixed, **chosen, "hyper_parameters": hyper_parameters}


def method_fields(study: Study, swept: Mapping[str, Value]) -> dict[str, Any]:
    """Fields of a study that say what is done, in plain values: what was decided, or differs from a default."""
    decided = {"dataset", "adaptations", "losses", "base_losses"}
    content = study.model_dump(mode="json", exclude=set(NOT_OF_THE_METHOD), exclude_none=True)
    default = Study().model_dump(mode="json")
    kept = {name: value for name, value in content.items() if name in decided or value != default[name]}
    if study.checkpoints is None:
        kept["backbone"] = study.backbone_name
    return {name: value for name, value in kept.items() if name.rstrip("_") not in swept}


def write_setting(setting: Setting, path: Path) -> None:
    """Write a setting as TOML, all or nothing."""
    write_atomically(path, (_HEADER + tomli_w.dumps(setting.model_dump())).encode())


def read_setting(path: Path) -> Setting:
    """Read what `write_setting` wrote.

    Raises:
        StudyError: the file is missing, damaged, or something else.
    """
    try:
        setting = Setting.model_validate(tomllib.loads(read_named(path, _LARGEST).decode()))
        foreign = sorted(set(setting.method) - (set(Study.model_fields) - NOT_OF_THE_METHOD))
        if foreign:
            raise ValueError(f"'{foreign[0]}' is no part of a method")
        if not isinstance(setting.method.get("hyper_parameters", {}), dict):
            raise ValueError("'hyper_parameters' is no table")
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise _no_setting(path, f"{place}: {first['msg']}") from error
    except FileNotFoundError as error:
        raise StudyError(f"there is no setting {path}. Make one with: fewshot-bench sweep") from error
    except IrregularFileError as error:
        raise _no_setting(path, f"it is {error.finding}") from error
    except (OSError, OutcomeError, ValueError, RecursionError) as error:
        raise _no_setting(path, str(error)) from error
    return setting


def _no_setting(path: Path, finding: str) -> StudyError:
    return StudyError(
        f"{path} is not a setting that a sweep wrote ({finding}). --setting takes the best.toml of fewshot-bench sweep."
    )

"""From the text of a study file, with the changes of a command line, to studies; every error names its place."""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from fewshot_bench._io.storage import read_named
from fewshot_bench._io.toml import KeyPath, key_lines, line_of, tomllib
from fewshot_bench.errors import CodeError, IrregularFileError, OutcomeError, StudyError
from fewshot_bench.study.plan import Outputs, StudyPlan
from fewshot_bench.study.study import Options
from fewshot_bench.study.study_file import MAKE_ONE, MethodTable, StudyFile, preset_text


def model_at(path: KeyPath) -> type[Options] | None:
    """The model of the table at a path; None for a table with free keys and for a value."""
    if not path:
        return StudyFile
    if path[0] == "methods" and len(path) == 2 and isinstance(path[1], int):
        return MethodTable
    return Outputs if path == ("outputs",) else None


def fields_of(model: type[Options]) -> dict[str, FieldInfo]:
    """The fields of a model by their names in a file."""
    return {field.alias or name: field for name, field in model.model_fields.items()}


def known_keys(path: KeyPath) -> list[str]:
    """The keys of the table at a path."""
    model = model_at(path)
    return [] if model is None else list(fields_of(model))


def _is_hyper_parameter(key: str) -> bool:
    """Whether an adaptation has a hyper-parameter of that name."""
    from fewshot_bench.adaptation import ADAPTATIONS
    from fewshot_bench.study.methods import hyper_parameters_of

    is_internal = key == "loss" or key.endswith("_")
    return not is_internal and any(key in hyper_parameters_of(adaptation) for adaptation in ADAPTATIONS.names())


def takes_several(path: KeyPath) -> bool:
    """Whether the value of a key is a list."""
    model, key = model_at(path[:-1]), path[-1]
    return model is not None and any(
        model.takes_several(name) for name, field in model.model_fields.items() if key == (field.alias or name)
    )


def normalised(data: dict[str, Any]) -> dict[str, Any]:
    """The content of a TOML file, with lists for single values of a list, and no base loss instead of "none"."""
    content = {key: _normalised(value, (key,)) for key, value in data.items()}
    if isinstance(content.get("methods"), list):
        content["methods"] = [
            {key: _normalised(value, ("methods", number, key)) for key, value in table.items()}
            if isinstance(table, dict)
            else table
            for number, table in enumerate(content["methods"])
        ]
    return content


def _normalised(value: Any, path: KeyPath) -> Any:
    if path[-1] == "base_losses" and value in ("none", ["none"]):
        return []
    is_single = isinstance(value, str | int | float) and path[-1] != "methods"
    return [value] if is_single and takes_several(path) else value


@dataclass(frozen=True)
class Override:
    """A key and its new value.

    Attributes:
        path: of the key.
        value: as TOML would give it.
        shown: how it was typed, for an error message.
    """

    path: KeyPath
    value: Any
    shown: str

    @classmethod
    def from_text(cls, key: str, text: str) -> Override:
        """The override of `--set key=value`.

        Args:
            key: keys and positions from 0, joined by dots: "methods.0.lambda".
            text: a TOML value; several with commas between them, if the key takes a list; otherwise plain text.
        """
        parts = [part.strip() for part in key.split(".")]
        path = tuple(int(part) if part.isdecimal() else _key_in_file(part) for part in parts[:2]) + tuple(parts[2:])
        value = _value(text)
        if isinstance(value, str) and takes_several(path) and value == text:
            value = [_value(word.strip()) for word in text.split(",") if word.strip()]
        return cls(path, value, f"--set {key}={text}")


def _key_in_file(key: str) -> str:
    return key.replace("-", "_") if key.replace("-", "_") in known_keys(()) else key


def _value(text: str) -> Any:
    """The TOML value of a text, or else the text itself."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def with_overrides(data: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """The content of a file with overrides.

    Args:
        data: as TOML gives it; it is not changed.
        overrides: applied in order.

    Raises:
        StudyError: a path leads through something that is not a table, to a method that does not exist, or sets a key
            that every method sets itself.
    """
    changed = copy.deepcopy(data)
    for override in overrides:
        _apply(changed, override)
    for override in overrides:
        _refuse_without_effect(changed, override)
    return changed


def _apply(data: dict[str, Any], override: Override) -> None:
    place: Any = data
    for number, part in enumerate(override.path[:-1]):
        if isinstance(place, list):
            place = _element(place, part, override)
        elif isinstance(place, dict):
            following: Any = {} if override.path[0] != "methods" or number else []
            place = place.setdefault(str(part), following)
    last = override.path[-1]
    if not isinstance(place, dict):
        raise StudyError(_not_a_table(override, place))
    place[str(last)] = override.value


def _element(tables: list[Any], part: str | int, override: Override) -> Any:
    if isinstance(part, int) and part < len(tables):
        return tables[part]
    last = len(tables) - 1
    known = (
        f"methods.0{f' to methods.{last}' if last else ' only'}" if tables else "no [[methods]]; leave methods.N out"
    )
    raise StudyError(f"{override.shown}: the study has {known}.")


def _not_a_table(override: Override, place: Any) -> str:
    inner = ".".join(str(part) for part in override.path[:-1])
    if isinstance(place, list) and override.path[0] == "methods":
        return f"{override.shown}: name one of the {len(place)} methods, as in methods.0.{override.path[-1]}."
    return f"{override.shown}: {inner} is not a table, so it has no keys."


def _refuse_without_effect(data: dict[str, Any], override: Override) -> None:
    tables, key = data.get("methods"), str(override.path[0])
    if len(override.path) > 1 or key == "datasets" or not isinstance(tables, list) or not tables:
        return
    if all(isinstance(table, dict) and key in table for table in tables):
        raise StudyError(
            f"{override.shown} changes nothing: every method of the study has its own {key}. Use methods.0.{key}."
        )


_LARGEST = 64_000  # bytes
_DEEPEST = 64  # parts of a key; the time of TOML's parser grows with their square
_TOO_DEEP = "has too many nested tables."
_PART, _BETWEEN = re.compile(r"[\w\"'-]\s*\."), re.compile(r"[,=\[\]\n]")
_LONGEST = 60  # characters of a value in a sentence


def plan_of_file(
    name: str,
    overrides: Sequence[Override] = (),
    *,
    trusts_code: bool = False,
    announce: Callable[[StudyFile], None] = lambda file: None,
) -> StudyPlan:
    """The studies of a file or of a preset, with overrides.

    Args:
        name: a preset, or the path of a TOML file.
        overrides: applied in order; code that they name is imported.
        trusts_code: whether code that the file names is imported too.
        announce: is told the file before torch is imported to check the rest of it.

    Raises:
        CodeError: code cannot be imported.
        StudyError: the file is missing, too large, not TOML, or has an error; the message names the file and line.
        UnknownNameError: there is no such file or preset.
    """
    text = preset_text(name)
    return _Source(name, _read(Path(name)) if text is None else text, overrides, trusts_code).plan(announce)


def _read(path: Path) -> str:
    try:
        content = read_named(path, _LARGEST)
    except IrregularFileError as error:
        raise StudyError(f"{path} is {error.finding}; a study is a TOML file. {MAKE_ONE}") from error
    except OutcomeError as error:
        raise StudyError(f"{path} has more than {_LARGEST:,} bytes, the limit of a study file. {MAKE_ONE}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{path}, line {line}: this is not UTF-8 text. {MAKE_ONE}") from error


@dataclass(frozen=True)
class _Source:
    """A text and the changes to it.

    Attributes:
        name: what to call it.
        text: TOML.
        overrides: of its keys.
        trusts_code: whether code that the text names may be imported.
    """

    name: str
    text: str
    overrides: Sequence[Override]
    trusts_code: bool = False

    def plan(self, announce: Callable[[StudyFile], None] = lambda file: None) -> StudyPlan:
        """The plan of its studies; the file is announced before torch is imported."""
        file = self._validated(self._parsed())
        misspelt = file.misspelt()
        if misspelt is not None:
            raise self._error(*misspelt)
        announce(file)
        self._admit_code(file)
        problem = file.problem()
        if problem is not None:
            raise self._error(*problem)
        studies = list(file.studies())
        if not studies:
            raise self._error(("methods",), "no method is for any of the study's datasets.")
        return StudyPlan(
            name=file.name or Path(self.name).stem,
            studies=tuple(study for study, _ in studies),
            places=tuple(self._place(path) for _, path in studies),
            baselines=file.baselines(),
            outputs=file.outputs,
        )

    def _parsed(self) -> dict[str, Any]:
        if any(len(_PART.findall(expression)) > _DEEPEST for expression in _BETWEEN.split(self.text)):
            raise StudyError(f"{self.name} {_TOO_DEEP}")
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
            where = f"line {found[2]}, column {found[3]}" if found else "last line"
            raise StudyError(f"{self.name}, {where}: this is not TOML ({found[1] if found else error}).") from error
        except (RecursionError, ValueError) as error:  # a value that Python cannot hold, such as a year of 0
            raise StudyError(f"{self.name} is not readable TOML ({error}).") from error

    def _validated(self, data: dict[str, Any]) -> StudyFile:
        """The model, by way of JSON: there lists become tuples and text paths, but "5" is not a number."""
        try:
            changed = normalised(with_overrides(data, self.overrides))
            return StudyFile.model_validate_json(json.dumps(changed, default=str), strict=True)
        except RecursionError as error:
            raise StudyError(f"{self.name} {_TOO_DEEP}") from error
        except ValidationError as error:
            if error.errors()[0]["type"] == "json_invalid":
                raise StudyError(f"{self.name} {_TOO_DEEP}") from error
            path, details = min(
                ((_path(found), found) for found in error.errors()), key=lambda pair: self._order(pair[0])
            )
            raise self._error(path, _sentence(path, details)) from error

    def _admit_code(self, file: StudyFile) -> None:
        """Import code that was typed or is trusted; for other code, say how to do either."""
        for path, admit, name in file.code():
            if self.trusts_code or any(path[: len(override.path)] == override.path for override in self.overrides):
                try:
                    admit(name)
                except CodeError as error:
                    raise self._error(path, str(error)) from error
            else:
                key = ".".join(str(part) for part in path if part != path[-1] or isinstance(part, str))
                raise self._error(
                    path,
                    f"{name} names code, which is imported from a study file only with --trust-code. Or type it: "
                    f"--set {key}={name}",
                )

    def _error(self, path: KeyPath, sentence: str) -> StudyError:
        return StudyError(f"{self._place(path)}: {sentence}")

    def _place(self, path: KeyPath) -> str:
        shown = self._shown(path)
        line = line_of(self._lines, path)
        return shown or (self.name if line is None else f"{self.name}, line {line}")

    @cached_property
    def _lines(self) -> dict[KeyPath, int]:
        return key_lines(self.text)

    def _shown(self, path: KeyPath) -> str:
        """The part of the command line that set a key; the last one counts."""
        newest = self.overrides[::-1]
        sets = [override for override in newest if path[: len(override.path)] == override.path]
        if not sets and path and path not in self._lines:  # a table that an override of a key in it has made
            sets = [override for override in newest if override.path[: len(path)] == path]
        return sets[0].shown if sets else ""

    def _order(self, path: KeyPath) -> tuple[bool, int]:
        """The command line comes first, then the file from top to bottom."""
        return not self._shown(path), line_of(self._lines, path) or 0


def _path(details: ErrorDetails) -> KeyPath:
    """The key of an error, without the parts that only name one type of several."""
    return tuple(part for part in details["loc"] if not re.fullmatch(r"bool|str|dict\[.*\]", str(part)))


def _sentence(path: KeyPath, details: ErrorDetails) -> str:
    """The error in the terms of a study file."""
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    if details["type"] == "extra_forbidden":
        return _unknown(path, key)
    if details["type"] in ("missing", "too_long"):
        return f"{key} has the wrong number of values."
    if details["type"] == "too_short":
        return f"{key} should have one value or more, not none."
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    message = message.replace("valid array", "list").replace("an object", "a table").replace("valid boolean", "boolean")
    value = repr(details["input"])
    return f"{key} {message}, not {value if len(value) <= _LONGEST else value[:_LONGEST] + '...'}."


def _unknown(path: KeyPath, key: str) -> str:
    """The key does not exist; it may belong elsewhere, or be misspelt."""
    known = known_keys(path[:-1])
    if len(path) > 1 and key in known_keys(()):
        return f"{key} belongs to the whole study: write it at the top, above the first table."
    if "hyper_parameters" in known and _is_hyper_parameter(key):
        return f"{key} is a hyper-parameter of adaptations: write hyper_parameters.{key}."
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    offer = f"Did you mean {nearest[0]}?" if nearest else f"Known: {', '.join(known)}."
    table = f" in {path[0]}" if path[:-1] else ""
    return f"there is no key '{key}'{table}. {offer}"

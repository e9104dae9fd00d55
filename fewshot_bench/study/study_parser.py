"""From the text of a study file, and what a command line changes in it, to studies; every complaint says where.

What a command line changes in a study file: `--set key=value`, and options such as `--results`.

The keys of a study file, read off its models: which there are, and which take several values.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
from collections.abc import Sequence
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
    names = {} if model is None else {field.alias or name: name for name, field in model.model_fields.items()}
    return model is not None and path[-1] in names and model.takes_several(names[str(path[-1])])


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


@dataclass(frozen=True)
class Override:
    """A key and its new value.

    Attributes:
        path: of the key.
        value: as TOML would give it.
        shown: how it was typed, for a complaint.
    """

    path: KeyPath
    value: Any
    shown: str

    @classmethod
    def from_text(cls, key: str, text: str, *, shown: str = "") -> Override:
        """What `--set key=value` means.

        Args:
            key: keys and positions from 0, joined by dots: "methods.0.lambda".
            text: a TOML value; with commas between them several, where the key takes a list; otherwise text as it is.
            shown: how it was typed; `--set KEY=VALUE` by default.
        """
        parts = [part.strip() for part in key.split(".")]
        path = tuple(int(part) if part.isdecimal() else _as_in_a_file(part) for part in parts[:2]) + tuple(parts[2:])
        value = _value(text)
        if isinstance(value, str) and takes_several(path) and value == text:
            value = [_value(word.strip()) for word in text.split(",") if word.strip()]
        return cls(path, value, shown or f"--set {key}={text}")


def _as_in_a_file(key: str) -> str:
    return key.replace("-", "_") if key.replace("-", "_") in known_keys(()) else key


def _value(text: str) -> Any:
    """What TOML makes of a value, or the text where it makes nothing of it."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return parsed["value"] if list(parsed) == ["value"] else text


def with_overrides(data: dict[str, Any], overrides: Sequence[Override]) -> dict[str, Any]:
    """What a file says, changed.

    Args:
        data: as TOML gives it; it is left as it is.
        overrides: applied in order.

    Raises:
        StudyError: a path leads through something that is no table, to a method that is not there, or sets what
            every method says for itself.
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
        raise StudyError(_no_table(override, place))
    place[str(last)] = override.value


def _element(tables: list[Any], part: str | int, override: Override) -> Any:
    if isinstance(part, int) and part < len(tables):
        return tables[part]
    last = len(tables) - 1
    there = f"has methods.0{f' to methods.{last}' if last else ' alone'}"
    raise StudyError(f"{override.shown}: the study {there if tables else 'has no [[methods]]; leave methods.N out'}.")


def _no_table(override: Override, place: Any) -> str:
    inner = ".".join(str(part) for part in override.path[:-1])
    if isinstance(place, list) and override.path[0] == "methods":
        return f"{override.shown}: say which of the {len(place)} methods, as in methods.0.{override.path[-1]}."
    return f"{override.shown}: {inner} is no table, so it has no keys."


def _refuse_without_effect(data: dict[str, Any], override: Override) -> None:
    tables, key = data.get("methods"), str(override.path[0])
    if len(override.path) > 1 or key == "datasets" or not isinstance(tables, list) or not tables:
        return
    if all(isinstance(table, dict) and key in table for table in tables):
        raise StudyError(
            f"{override.shown} changes nothing: every method of the study says its own {key}. Use methods.0.{key}."
        )


_LARGEST = 64_000  # bytes
_DEEPEST = 64  # parts of a key; the time that TOML's parser takes grows with their square
_TOO_DEEP = "has too many tables within each other."
_PART, _BETWEEN = re.compile(r"[\w\"'-]\s*\."), re.compile(r"[,=\[\]\n]")
_LONGEST = 60  # characters of a value in a sentence


def plan_of_file(name: str, overrides: Sequence[Override] = (), *, trusts_code: bool = False) -> StudyPlan:
    """The studies of a file or of a preset, with what a command line changes in it.

    Args:
        name: a preset, or the path of a TOML file.
        overrides: applied in order; code that they name is imported.
        trusts_code: whether code that the file names is imported too.

    Raises:
        CodeError: code cannot be imported.
        StudyError: the file is missing or too large, is no TOML, or says something that cannot be; the sentence names
            the file and the line.
        UnknownNameError: there is neither such a file nor such a preset.
    """
    text = preset_text(name)
    return _Source(name, _read(Path(name)) if text is None else text, overrides, trusts_code).plan()


def _read(path: Path) -> str:
    try:
        content = read_named(path, _LARGEST)
    except IrregularFileError as error:
        raise StudyError(f"{path} is {error.finding}; a study is a TOML file. {MAKE_ONE}") from error
    except OutcomeError as error:
        raise StudyError(f"{path} has more than {_LARGEST:,} bytes; no study needs so many. {MAKE_ONE}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StudyError(f"{path}, line {line}: this is no UTF-8 text. {MAKE_ONE}") from error


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

    def plan(self) -> StudyPlan:
        """What it stands for."""
        file = self._validated(self._parsed())
        misspelt = file.misspelt()
        if misspelt is not None:
            raise self._error(*misspelt)
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
        if any(len(_PART.findall(piece)) > _DEEPEST for piece in _BETWEEN.split(self.text)):
            raise StudyError(f"{self.name} {_TOO_DEEP}")
        try:
            return tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            found = re.fullmatch(r"(.*) \(at line (\d+), column (\d+)\)", str(error), re.DOTALL)
            where = f"line {found[2]}, column {found[3]}" if found else "last line"
            raise StudyError(f"{self.name}, {where}: this is no TOML ({found[1] if found else error}).") from error
        except (RecursionError, ValueError) as error:  # a value that Python cannot hold, such as a year of 0
            raise StudyError(f"{self.name} is no TOML that can be read ({error}).") from error

    def _validated(self, data: dict[str, Any]) -> StudyFile:
        """The model, by way of JSON: there lists are tuples and text is paths, but "5" is no number."""
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
        """Have code imported that somebody has typed or trusts; of other code say how to do either."""
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
                    f"{name} names code, which a study file has imported only with --trust-code. Or type it: "
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
        """The part of the command line that has set a key; the last one counts."""
        sets = [one for one in reversed(self.overrides) if path[: len(one.path)] == one.path]
        if not sets and path and path not in self._lines:  # a table that is there for the sake of the key in it
            sets = [one for one in reversed(self.overrides) if one.path[: len(path)] == path]
        return sets[0].shown if sets else ""

    def _order(self, path: KeyPath) -> tuple[bool, int]:
        """What is typed comes first, then the file from top to bottom."""
        return not self._shown(path), line_of(self._lines, path) or 0


def _path(details: ErrorDetails) -> KeyPath:
    """The key of an error, without the parts of it that only name a type among several."""
    return tuple(part for part in details["loc"] if not re.fullmatch(r"bool|str|dict\[.*\]", str(part)))


def _sentence(path: KeyPath, details: ErrorDetails) -> str:
    """What is wrong, in the words of somebody who writes TOML."""
    key = next((part for part in reversed(path) if isinstance(part, str)), "")
    if details["type"] == "extra_forbidden":
        return _unknown(path, key)
    if details["type"] in ("missing", "too_long"):
        return f"{key} has another number of values than it takes."
    if details["type"] == "too_short":
        return f"{key} should have one value or more, not none."
    message = details["msg"].removeprefix("Value error, ").replace("Input should be", "should be")
    message = message.replace("valid array", "list").replace("an object", "a table").replace("valid boolean", "boolean")
    value = repr(details["input"])
    return f"{key} {message}, not {value if len(value) <= _LONGEST else value[:_LONGEST] + '...'}."


def _unknown(path: KeyPath, key: str) -> str:
    """There is no such key; it may belong elsewhere, or be spelled otherwise."""
    known = known_keys(path[:-1])
    if len(path) > 1 and key in known_keys(()):
        return f"{key} belongs to the whole study: write it at the top, above the first table."
    hyper_parameter = f"hyper_parameters.{key}"
    if hyper_parameter in known_keys(path[:-1], with_hyper_parameters=True):
        return f"{key} is a hyper-parameter of adaptations: write {hyper_parameter}."
    nearest = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    offer = f"Did you mean {nearest[0]}?" if nearest else f"Known: {', '.join(known)}."
    return f"there is no key '{key}'{_in_words(path[:-1])}. {offer}"


def _in_words(table: KeyPath) -> str:
    """The table that a path leads to, as part of a sentence."""
    return f" in {table[0]}" if table else ""

"""From the text of a study file, and what a command line changes in it, to studies; every complaint says where."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from fewshot_bench.errors import CodeError, IrregularFileError, OutcomeError, StudyError
from fewshot_bench.stored_files import read_named
from fewshot_bench.study.file_keys import known_keys, normalised
from fewshot_bench.study.overrides import Override, with_overrides
from fewshot_bench.study.plan import StudyPlan
from fewshot_bench.study.positions import KeyPath, key_lines, line_of
from fewshot_bench.study.presets import MAKE_ONE, preset_text
from fewshot_bench.study.study_file import StudyFile
from fewshot_bench.toml import tomllib

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

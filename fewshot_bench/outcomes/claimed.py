"""Accuracies that other code computed. A file claims which episodes they belong to; nothing verifies it.

A claimed cell is a cell like any other. Its parts have other columns: an accuracy for each episode, no predictions, and
the counts and the classes of the episode where the file gave them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from fewshot_bench.errors import ShapeError
from fewshot_bench.limits import MOST_RUNS
from fewshot_bench.outcomes.cell import CLAIMED_SAMPLER, MethodCard, ProtocolCard

ACCURACY_FILES = (".csv", ".tsv", ".parquet", ".npy", ".npz", ".pt", ".pth", ".safetensors")
"""Suffixes of files that can be imported."""

CLAIMED_COLUMNS = ("run", "episode", "accuracy", "correct", "queries", "classes")
UNKNOWN_CORRECT = -1
UNKNOWN_QUERIES = 0
NO_CLASSES = ""
SEPARATOR = ";"
"""Between the classes of an episode."""

LARGEST_RUN = MOST_RUNS - 1
LARGEST_EPISODE = int(np.iinfo(np.int32).max) - 1
MOST_QUERIES = 1_000_000
_LONGEST_CLASS = 200  # characters
_NOT_STATED = "not stated"
CLAIMED_TYPES = {
    "run": pa.int16(),
    "episode": pa.int32(),
    "accuracy": pa.float64(),
    "correct": pa.int32(),
    "queries": pa.int32(),
    "classes": pa.string(),
}


def claimed_method(name: str, *, is_transductive: bool = False) -> MethodCard:
    """The card of a method that is known by its name alone, and by whether it is transductive."""
    return MethodCard(name, _NOT_STATED, _NOT_STATED, _NOT_STATED, {"imported_as": name}, is_transductive)


def claimed_protocol(dataset: str, split: str, way: int, shot: int, tasks: str) -> ProtocolCard:
    """The card of claimed episodes; methods that share it claim the same episodes.

    Args:
        dataset: its name.
        split: "base", "validation" or "novel".
        way: N.
        shot: K.
        tasks: the name under which the episodes were imported.
    """
    return ProtocolCard(dataset, "", split, way, shot, 0, 0, 1, CLAIMED_SAMPLER, {"tasks": tasks})


def claimed_frame(
    run: NDArray[np.integer[Any]],
    episode: NDArray[np.integer[Any]],
    accuracy: NDArray[np.float64],
    *,
    correct: NDArray[np.integer[Any]] | None = None,
    queries: NDArray[np.integer[Any]] | None = None,
    classes: NDArray[np.object_] | None = None,
) -> pd.DataFrame:
    """The outcomes that a file claims, as a frame.

    Args:
        run: of each episode, [E].
        episode: number within the run, [E].
        accuracy: fraction of the queries classified correctly, [E].
        correct: number of correct queries, -1 if unknown, [E].
        queries: number of queries, 0 if unknown, [E].
        classes: as `classes_text` makes them, "" if unknown, [E].

    Returns:
        Columns run, episode, correct, accuracy, seconds, queries and classes, [E].
    """
    count = len(episode)
    return pd.DataFrame(
        {
            "run": np.asarray(run, np.int16),
            "episode": np.asarray(episode, np.int32),
            "correct": np.full(count, UNKNOWN_CORRECT, np.int32) if correct is None else np.asarray(correct, np.int32),
            "accuracy": np.asarray(accuracy, np.float64),
            "seconds": np.full(count, np.nan),
            "queries": np.full(count, UNKNOWN_QUERIES, np.int32) if queries is None else np.asarray(queries, np.int32),
            "classes": pd.Series(np.full(count, NO_CLASSES, object) if classes is None else classes, dtype=object),
        }
    )


def classes_text(names: Sequence[str], way: int) -> str:
    """The classes of an episode in stored form: sorted, numbers by value, separated by semicolons.

    Args:
        names: of the classes, in any order.
        way: N.

    Raises:
        ShapeError: there are not N different names.

    >>> classes_text(["12", "3", "7"], way=3)
    '3;7;12'
    """
    stripped = [name.strip() for name in names]
    if len(set(stripped)) != way or len(stripped) != way:
        raise ShapeError(f"{len(set(stripped))} different classes are named; {way}-way episodes have {way}")
    odd = next((name for name in stripped if not _is_class(name)), None)
    if odd is not None:
        raise ShapeError(f"{odd[:40]!r} is not a class: names have 1 to {_LONGEST_CLASS} characters and no semicolon")
    are_numbers = all(name.isascii() and name.isdigit() for name in stripped)
    return SEPARATOR.join(sorted(stripped, key=lambda name: (int(name), name) if are_numbers else (0, name)))


def check_claimed(card: ProtocolCard, frame: object) -> None:
    """Check that a frame is one of `claimed_frame`, with values that can be stored; raises ShapeError if it is not."""
    if not isinstance(frame, pd.DataFrame) or any(list(frame.columns).count(name) != 1 for name in CLAIMED_COLUMNS):
        raise ShapeError(f"outcomes of {card.task} should be a frame with the columns {', '.join(CLAIMED_COLUMNS)}.")
    dtypes = {"run": "iu", "episode": "iu", "accuracy": "f", "correct": "i", "queries": "iu"}
    wrong = [name for name, allowed in dtypes.items() if getattr(frame[name].dtype, "kind", "") not in allowed]
    texts = [*frame["classes"].unique()]
    if not all(isinstance(text, str) for text in texts):
        wrong.append("classes")
    if wrong:
        raise ShapeError(f"{wrong[0]} of outcomes of {card.task} is of type {frame[wrong[0]].dtype}.")
    columns = {name: frame[name].to_numpy() for name in CLAIMED_COLUMNS if name != "classes"}
    problem = _problem(columns) or _problem_of_classes(texts, card.way)
    if problem:
        raise ShapeError(f"outcomes of {card.task}: {problem}.")


def claimed_table(frame: pd.DataFrame, constants: Mapping[str, pa.Array]) -> pa.Table:
    """The table to store of a frame that `check_claimed` accepts, [E].

    Args:
        frame: of `claimed_frame`.
        constants: columns that are the same in every row.
    """
    columns = {name: pa.array(frame[name], type=kind) for name, kind in CLAIMED_TYPES.items()}
    return pa.table({**constants, **columns})


def claimed_columns(table: pa.Table, way: int, constants: Mapping[str, str]) -> dict[str, NDArray[Any]] | None:
    """The rows of a part. A stranger may have written it, so every value is checked.

    Args:
        table: of a file, with the columns and types of `claimed_table`, no value missing.
        way: N.
        constants: the expected values of the columns that are the same in every row.

    Returns:
        run, episode, accuracy, correct, seconds, queries, classes (text), each [E]; None if a value is one that
        `claimed_table` never stores.
    """
    texts = {name: table[name].combine_chunks() for name in (*constants, "classes")}
    unique = {name: _dictionary(column) for name, column in texts.items()}
    if any(unique[name] != [value] for name, value in constants.items()):
        return None
    found: dict[str, NDArray[Any]] = {name: table[name].to_numpy() for name in CLAIMED_COLUMNS if name != "classes"}
    classes = unique["classes"]
    if classes is None or _problem(found) or _problem_of_classes(classes, way):
        return None
    unique_texts = np.empty(len(classes), dtype=object)  # rows of one text share it
    unique_texts[:] = classes
    found["classes"] = unique_texts[texts["classes"].indices.to_numpy()]
    found["seconds"] = np.full(len(table), np.nan)
    return found


def _dictionary(column: pa.Array) -> list[str] | None:
    """The different texts of a column; None if it holds anything else."""
    if not pa.types.is_dictionary(column.type) or not pa.types.is_string(column.type.value_type):
        return None
    return None if column.dictionary.null_count else list(column.dictionary.to_pylist())


def _problem(columns: Mapping[str, NDArray[Any]]) -> str:
    """What is wrong with the numbers of rows, in words; empty if nothing is."""
    run, episode, accuracy, correct, queries = (columns[name] for name in CLAIMED_COLUMNS if name != "classes")
    for name, values, least, most in (
        ("run", run, 0, LARGEST_RUN),
        ("episode", episode, 0, LARGEST_EPISODE),
        ("queries", queries, 0, MOST_QUERIES),
        ("correct", correct, UNKNOWN_CORRECT, MOST_QUERIES),
    ):
        if len(values) and not (least <= values.min() and values.max() <= most):
            return f"{name} should be {least} to {most:,}"
    if not ((accuracy >= 0) & (accuracy <= 1)).all():  # NaN is neither
        return "accuracy should be a fraction from 0 to 1"
    known = correct != UNKNOWN_CORRECT
    if (correct[known] > queries[known]).any() or (queries[known] == UNKNOWN_QUERIES).any():
        return "more queries are correct than there are"
    if (accuracy[known] != correct[known] / queries[known]).any():
        return "accuracy should be correct divided by the number of queries, in float64"
    return ""


def _problem_of_classes(texts: Sequence[str], way: int) -> str:
    for text in texts:
        if text == NO_CLASSES:
            continue
        if len(text) > way * (_LONGEST_CLASS + 1):
            return "names of classes are too long"
        try:
            found = classes_text(text.split(SEPARATOR), way)
        except ShapeError as error:
            return str(error)
        if found != text:
            return f"classes should be sorted, as in {found[:40]!r}"
    return ""


def _is_class(name: str) -> bool:
    return 0 < len(name) <= _LONGEST_CLASS and SEPARATOR not in name and name.isprintable()

"""From the column of labels of somebody's table to the names of classes; what is missing is no class."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from fewshot_bench.datasets.sources.names import composed
from fewshot_bench.errors import DatasetError

_NEVER_A_CLASS = {"", "nan", "<na>", "nat"}
_PERHAPS_A_CLASS = {"none", "null", "na", "n/a", "#n/a", "-1"}
_LIST = re.compile(r"\[.*\]|\(\s*\)|\{\s*\}|[({]\s*(['\"\d-].*|.*,.*)[)}]", re.DOTALL)
_WHOLE = re.compile(r"[-+]?\d+")
_WHOLE_WITH_POINT = re.compile(r"([-+]?\d+)\.0+")


def class_names_of(labels: Sequence[Any], what: str) -> tuple[list[str | None], list[str]]:
    """The class of each row, and what a user should know of that.

    Whole numbers stay whole: a column that holds a missing value comes as 0.0, 1.0, ..., which are classes 0, 1, ...

    Args:
        labels: values of any type, as a reader of tables gives them.
        what: the column, for messages.

    Returns:
        One name for each label, None where it is missing; and notes, one sentence each.

    Raises:
        DatasetError: a label is a list, which no class can be, or a fraction.
    """
    texts = [_text(label, number, what) for number, label in enumerate(labels, 1)]
    counts = Counter(text for text in texts if text is not None)
    classes = [text for text in counts if text.lower() not in _PERHAPS_A_CLASS | _NEVER_A_CLASS]
    are_numbers = bool(classes) and all(_WHOLE.fullmatch(text) or _WHOLE_WITH_POINT.fullmatch(text) for text in classes)
    missing = _NEVER_A_CLASS | (_PERHAPS_A_CLASS - {"-1"} if are_numbers else set())
    names: list[str | None] = []
    for text in texts:
        if text is None or text.lower() in missing:
            names.append(None)
        elif are_numbers and (whole := _WHOLE_WITH_POINT.fullmatch(text)):
            names.append(whole[1])
        else:
            names.append(text)
    taken = {name for name in names if name is not None and name.lower() in _PERHAPS_A_CLASS}
    notes = [
        f"'{name}' in {what} is a class of {names.count(name):,} images. If it means that there is no label, leave the "
        "field empty."
        for name in sorted(taken)
    ]
    return names, notes


def _text(label: Any, number: int, what: str) -> str | None:
    """One label as text, None where it is missing."""
    if isinstance(label, np.generic):
        label = label.item()
    if isinstance(label, bytes):
        label = label.decode(errors="backslashreplace")
    if label is None:
        return None
    if isinstance(label, list | tuple | set | dict | np.ndarray) or (
        isinstance(label, str) and _LIST.fullmatch(label.strip())
    ):
        shown = " ".join(str(label).split())
        raise DatasetError(
            f"row {number} of {what} has the label {shown[:60]}: several classes for one image. An episode needs one "
            "class per image; write one name or number in each row."
        )
    if isinstance(label, float):
        if math.isnan(label):
            return None
        if not label.is_integer():
            raise DatasetError(
                f"row {number} of {what} has the label {label}, a fraction, which is no class. Write a name or a whole "
                "number in each row."
            )
        return str(int(label))
    return composed(str(label).strip())

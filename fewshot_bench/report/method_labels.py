"""What to call methods in the tables of a paper, instead of their names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fewshot_bench.errors import ComparisonError, UnknownNameError
from fewshot_bench.report.method_names import resolve_method
from fewshot_bench.report.wording import task_text

_WITH_FINGERPRINT = re.compile("#[0-9a-f]{8}$")


def method_labels(names: Iterable[str], wanted: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The labels of methods, by their whole names.

    Args:
        names: of the methods there are, also in the form `name#fingerprint`.
        wanted: a method and its label; the method is a name, a part that no other name has, or `name#fingerprint`.

    Raises:
        UnknownNameError: no method is called so.
        ComparisonError: a part fits several methods, or a method has two labels.
    """
    known = set(names)
    plain = {name for name in known if not _WITH_FINGERPRINT.search(name)}
    found: dict[str, str] = {}
    for method, label in wanted:
        name = method if method in known else resolve_method(plain, method)
        if found.setdefault(name, label) != label:
            raise ComparisonError(f"{name} would be called both '{found[name]}' and '{label}'. Give it one label.")
    return found


def labels_of_texts(names: Iterable[str], texts: Sequence[str]) -> dict[str, str]:
    """What texts of the form METHOD=LABEL say.

    Names and labels may hold equals signs: the longest left side that names a method counts.

    Args:
        names: as `method_labels` takes them.
        texts: e.g. "lite0/logistic=Ours".

    Raises:
        UnknownNameError, ComparisonError: as `method_labels`, or a text lacks a side.
    """
    known = set(names)
    return method_labels(known, [_sides(known, text) for text in texts])


def _sides(names: set[str], text: str) -> tuple[str, str]:
    splits = [(text[:at].strip(), text[at + 1 :].strip()) for at, sign in enumerate(text) if sign == "="]
    splits = [(method, label) for method, label in reversed(splits) if method and label]
    if not splits:
        raise ComparisonError(f"a label is given as METHOD=LABEL, not '{text}'.")
    return next((split for split in splits if _is_known(names, split)), splits[0])


def _is_known(names: set[str], split: tuple[str, str]) -> bool:
    try:
        method_labels(names, [split])
    except UnknownNameError:
        return False
    except ComparisonError:  # it is a part of several names, which is said where all labels are read
        return True
    return True


def names_in(frame: pd.DataFrame) -> list[str]:
    """The names of the methods of a leaderboard, also in the form `name#fingerprint`."""
    return [name for row in frame.to_dict("records") for name in _names_of(row)]


def with_labels(frame: pd.DataFrame, labels: Mapping[str, str]) -> pd.DataFrame:
    """A leaderboard whose methods and baselines are called by labels.

    Methods of different protocols may have one label, such as the networks that were trained for each dataset.

    Args:
        frame: as `leaderboard` returns it; it is not changed.
        labels: as `method_labels` returns them.

    Raises:
        ComparisonError: two methods of one protocol would be called alike.
    """
    called: dict[tuple[str, str], str] = {}
    owners: dict[tuple[str, str], str] = {}
    for row in frame.to_dict("records"):
        protocol, shown = row["protocol_fingerprint"], row["method"]
        label = next((labels[name] for name in reversed(_names_of(row)) if name in labels), shown)
        owner = owners.setdefault((protocol, label), shown)
        if owner != shown:
            raise ComparisonError(
                f"two methods on {task_text(row)} would be called '{label}': {owner} and {shown}. "
                "Give each its own label."
            )
        called[protocol, shown] = label
    protocols = frame["protocol_fingerprint"].tolist()
    return frame.assign(
        **{
            column: [called.get(pair, pair[1]) for pair in zip(protocols, frame[column].tolist(), strict=True)]
            for column in ("method", "baseline")
        }
    )


def _names_of(row: Mapping[Any, Any]) -> list[str]:
    """The name of a row's method, and where it was measured also the name with the fingerprint."""
    fingerprint = row["method_fingerprint"]
    if not isinstance(fingerprint, str) or not fingerprint:
        return [row["method"]]
    end = f"#{fingerprint[:8]}"
    name = row["method"].removesuffix(end)
    return [name, f"{name}{end}"]

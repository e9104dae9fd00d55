"""What to call methods in the tables of a paper, instead of their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from fewshot_bench.errors import ComparisonError, UnknownNameError
from fewshot_bench.report.method_names import resolve_method
from fewshot_bench.report.wording import task_text


def method_labels(
    names: Iterable[str], wanted: Iterable[tuple[str, str]], *, only_whole: Iterable[str] = ()
) -> dict[str, str]:
    """The labels of methods, by their whole names.

    Args:
        names: of the methods there are.
        wanted: a method, by its name or a part that no other name has, and its label.
        only_whole: further names, of which no part is enough.

    Raises:
        UnknownNameError: no method is called so.
        ComparisonError: a part fits several methods, or a method has two labels.
    """
    names, whole = set(names), set(only_whole)
    found: dict[str, str] = {}
    for method, label in wanted:
        name = method if method in whole else resolve_method(names, method)
        if found.setdefault(name, label) != label:
            raise ComparisonError(f"{name} would be called both '{found[name]}' and '{label}'. Give it one label.")
    return found


def labels_of_texts(frame: pd.DataFrame, texts: Sequence[str]) -> dict[str, str]:
    """What texts of the form METHOD=LABEL say about the methods of a leaderboard.

    METHOD is a name, a part that no other measured method has, or `name#fingerprint`. It and the label may hold equals
    signs: the longest left side that names a method counts.

    Args:
        frame: as `leaderboard` returns it.
        texts: e.g. "lite0/logistic=Ours".

    Raises:
        UnknownNameError, ComparisonError: as `method_labels`, or a text lacks a side.
    """
    names: set[str] = set()
    whole: set[str] = set()
    for row in frame.to_dict("records"):
        name, *with_fingerprint = _names_of(row)
        (names if with_fingerprint else whole).add(name)
        whole.update(with_fingerprint)
    return method_labels(names, [_sides(names, whole, text) for text in texts], only_whole=whole)


def _sides(names: set[str], whole: set[str], text: str) -> tuple[str, str]:
    splits = [(text[:at].strip(), text[at + 1 :].strip()) for at, sign in enumerate(text) if sign == "="]
    splits = [(method, label) for method, label in reversed(splits) if method and label]
    if not splits:
        raise ComparisonError(f"a label is given as METHOD=LABEL, not '{text}'.")
    return next((split for split in splits if _is_known(names, whole, split)), splits[0])


def _is_known(names: set[str], whole: set[str], split: tuple[str, str]) -> bool:
    try:
        method_labels(names, [split], only_whole=whole)
    except UnknownNameError:
        return False
    except ComparisonError:  # it is a part of several names, which is said where all labels are read
        return True
    return True


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

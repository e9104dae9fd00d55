"""What authors call methods, how they group them, and which are their own: on the page and in tables."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from fewshot_bench._io.locations import Location
from fewshot_bench._io.storage import read_bytes, read_named
from fewshot_bench._io.toml import tomllib
from fewshot_bench.errors import ComparisonError, FewshotBenchError, OutcomeError, UnknownNameError
from fewshot_bench.report.names import resolve_method, task_text, without_common_prefix
from fewshot_bench.report.trainings import without_seed

HEADING, IS_OWN, IS_LABELLED = "heading", "is_own", "is_labelled"
"""Columns of a `labelled` leaderboard: the author's group, whether the row is the author's, whether it has a label."""
OTHERS = "other methods"
_LISTS = "a list of methods"
_LARGEST = 1_000_000  # bytes
_KEYS = {"names": "a table of labels", "groups": f"a table with {_LISTS} for each heading", "highlight": _LISTS}


@dataclass(frozen=True)
class Labels:
    """What a file of labels says; methods are named as on the command line, or by their labels.

    Attributes:
        names: label of each method, by its name or a part that no other name has.
        groups: methods by the heading above them, in order.
        own: methods to highlight.
    """

    names: Mapping[str, str] = field(default_factory=dict)
    groups: Mapping[str, Sequence[str]] = field(default_factory=dict)
    own: Sequence[str] = ()


def read_labels(path: Location) -> Labels:
    """Read a file of labels.

        highlight = ["Ours"]

        [names]
        "lite0/logistic" = "Ours"

        [groups]
        "This work" = ["Ours"]
        "Baselines" = ["centroid", "knn"]

    Raises:
        ComparisonError: the file is not there, is not TOML, or holds something else.
    """
    try:
        read = read_named(path, _LARGEST) if isinstance(path, Path) else read_bytes(path, _LARGEST)
        content = tomllib.loads(read.decode("utf-8"))
    except (OSError, OutcomeError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ComparisonError(f"the labels {path} cannot be read ({error}).") from error
    for key in content:
        if key not in _KEYS:
            raise ComparisonError(f"{path}: {UnknownNameError('key', key, _KEYS)}")
    names, groups, own = content.get("names", {}), content.get("groups", {}), content.get("highlight", [])
    are_lists = isinstance(groups, dict) and all(map(_is_list, groups.values()))
    fits = {"names": isinstance(names, dict) and _is_list(list(names.values())), "groups": are_lists}
    for key, is_fitting in {**fits, "highlight": _is_list(own)}.items():
        if not is_fitting:
            raise ComparisonError(f"{path}: {key} is {_KEYS[key]}. See: fewshot-bench report --help")
    return Labels(names, groups, own)


def _is_list(value: object) -> bool:
    """Whether a value of TOML is a list of texts, none of them blank."""
    return isinstance(value, list) and all(isinstance(text, str) and text.strip() for text in value)


def labelled(frame: pd.DataFrame, labels: Labels, *, where: object = "labels") -> pd.DataFrame:
    """A leaderboard as its author wants to show it; its numbers stay.

    Args:
        frame: as `leaderboard` returns it; it is not changed.
        labels: as `read_labels` returns them.
        where: they are from, for messages.

    Returns:
        The frame with labels in place of names, and the columns HEADING, IS_OWN and IS_LABELLED.

    Raises:
        ComparisonError: no method has a name, several have it, a method has two labels or groups, or two methods would
            be called the same.
    """
    try:
        known, whole = _known(frame)
        names = method_labels(known, labels.names.items(), only_whole=whole)

        def meant(method: str) -> list[str]:
            by_label = [name for name, label in names.items() if label == method]
            return by_label or list(method_labels(known, [(method, method)], only_whole=whole))

        headings: dict[str, str] = {}
        for heading, methods in labels.groups.items():
            for name in (name for method in methods for name in meant(method)):
                if headings.setdefault(name, heading) != heading:
                    raise ComparisonError(
                        f"{name} is in the groups '{headings[name]}' and '{heading}'. Leave it in one."
                    )
        own = {name for method in labels.own for name in meant(method)}
        shown = with_labels(frame, names)
    except FewshotBenchError as error:
        raise ComparisonError(f"{where}: {error}") from error
    called = [[*_names_of(row), without_seed(row["method"])] for row in frame.to_dict("records")]
    others = OTHERS if headings else ""
    shown.attrs[HEADING] = (*labels.groups, others)
    columns: dict[str, list[Any]] = {
        HEADING: [next((headings[name] for name in of if name in headings), others) for of in called],
        IS_OWN: [not own.isdisjoint(of) for of in called],
        IS_LABELLED: (shown["method"] != frame["method"]).tolist(),
    }
    return shown.assign(**columns)


def without_shared_start(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """The stages that all methods of a leaderboard begin with, and the leaderboard without them in names."""
    prefix, _ = without_common_prefix(frame["method"].tolist())
    if not prefix:
        return "", frame
    shortened = {name: frame[name].map(lambda text: _without(text, prefix)) for name in ("method", "baseline")}
    return prefix, frame.assign(**shortened)


def _without(text: Any, prefix: str) -> Any:
    return text.removeprefix(prefix) if isinstance(text, str) else text


def method_labels(
    names: Iterable[str], wanted: Iterable[tuple[str, str]], *, only_whole: Iterable[str] = ()
) -> dict[str, str]:
    """The labels of methods, by their whole names.

    Args:
        names: of the methods there are.
        wanted: a method, by its name or a part that no other name has, and its label.
        only_whole: further names that must be given whole.

    Raises:
        UnknownNameError: no method has this name.
        ComparisonError: a part fits several methods, or a method has two labels.
    """
    names, whole = set(names), set(only_whole)
    labels: dict[str, str] = {}
    for method, label in wanted:
        name = method if method in whole else resolve_method(names, method)
        if labels.setdefault(name, label) != label:
            raise ComparisonError(f"{name} would be called both '{labels[name]}' and '{label}'. Give it one label.")
    return labels


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
    names, whole = _known(frame)
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
        ComparisonError: two methods of one protocol would have the same name.
    """
    called: dict[tuple[str, str], str] = {}
    owners: dict[tuple[str, str], str] = {}  # by protocol and how the label looks
    for row in frame.to_dict("records"):
        protocol, shown = row["protocol_fingerprint"], row["method"]
        label = next((labels[name] for name in reversed(_names_of(row)) if name in labels), shown)
        if label == shown and row.get("training_of") and (of_method := labels.get(without_seed(shown))):
            label = f"{of_method}, seed {int(row['training_seed'])}"
        owner = owners.setdefault((protocol, _look(label)), shown)
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


def _look(label: str) -> str:
    """What a reader sees of a label: no invisible characters, and white space as one space."""
    text = unicodedata.normalize("NFKC", label)
    return " ".join("".join(sign for sign in text if sign.isprintable() or sign.isspace()).split())


def _known(frame: pd.DataFrame) -> tuple[set[str], set[str]]:
    """The names of a leaderboard's methods of which a part may be given, and those that must be given whole."""
    names: set[str] = set()
    whole: set[str] = set()
    for row in frame.to_dict("records"):
        name, *with_fingerprint = _names_of(row)
        (names if with_fingerprint else whole).add(name)
        whole.update(with_fingerprint)
    return names, whole


def _names_of(row: Mapping[Any, Any]) -> list[str]:
    """The name of a row's method, and where it was measured also the name with the fingerprint."""
    fingerprint = row["method_fingerprint"]
    if not isinstance(fingerprint, str) or not fingerprint:
        return [row["method"]]
    end = f"#{fingerprint[:8]}"
    name = row["method"].removesuffix(end)
    return [name, f"{name}{end}"]

"""Names of methods and tasks: typed by a user, replaced by labels, shortened, and marked for people."""

from __future__ import annotations

import os.path
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import Any

import pandas as pd

from fewshot_bench._io.locations import Location
from fewshot_bench._io.text import printable
from fewshot_bench.errors import ComparisonError, OutcomeError, UnknownNameError
from fewshot_bench.limits import WHOLE_SAMPLER
from fewshot_bench.outcomes import TRANSDUCTIVE, Cell, OutcomeStore, ProtocolCard, marked
from fewshot_bench.outcomes.cell import whole_task
from fewshot_bench.outcomes.claimed import ACCURACY_FILES
from fewshot_bench.report.scores import task_columns
from fewshot_bench.report.trainings import (
    method_cell,
    names_of_trainings,
    trainings_of_methods,
    without_seed,
)

BALANCED_FLAG = "assumes balanced queries"
CLAIMED_FLAG = "episodes claimed, not verified"
CLAIMED = "claimed: files say which episodes are the same; their identity is not verified"
TRANSDUCTIVE_NOTE = "transductive: sees all queries of an episode at once; compare such a method with its own kind"
TRAININGS_NOTE = (
    "trainings: SD and 95% CI over their means, which covers a new training; other intervals and letters do not"
)
ONE_TRAINING_NOTE = "one training each: no interval covers a new training"
BASELINE_KINDS = {False: "baseline is inductive", True: "baseline is transductive"}
"""What the flags of a row say when its baseline is of the other kind."""
_CUT = "…"


def check_no_files(wanted: Iterable[str], store: OutcomeStore) -> None:
    """Refuse a file where a method is expected, and say what to type.

    Raises:
        ComparisonError: one of the names ends like a file of accuracies, and no stored method has that name.
    """
    file = next((name for name in wanted if name.lower().endswith(ACCURACY_FILES)), None)
    if file is not None and file not in {cell.method.name for cell in store.cells()}:
        raise ComparisonError(f"{file} is a file, not a method. {import_first(file)}")


def import_first(file: str) -> str:
    """What to type instead of a file of accuracies where stored outcomes are expected."""
    return (
        "Import it first, then compare its methods: "
        f"fewshot-bench outcomes import {quote(file)} --dataset NAME --way N --shot K"
    )


def check_no_file(place: Location, expected: str) -> Location:
    """The place of results that the user named; raises OutcomeError if it is a file, with the way to import one."""
    if isinstance(place, Path) and place.is_file():
        advice = import_first(str(place)) if place.name.lower().endswith(ACCURACY_FILES) else "Name the folder."
        raise OutcomeError(f"{place} is a file, not {expected}. {advice}")
    return place


def resolve_method(names: Iterable[str], wanted: str) -> str:
    """The one method that is meant.

    Args:
        names: of the methods there are.
        wanted: a whole name, or a part that only one of them has. Names that differ in the training seed alone count
            as one method, which is called by the first of them.

    Raises:
        UnknownNameError: no name has that part.
        ComparisonError: several have it.
    """
    known = sorted(set(names))
    if wanted in known:
        return wanted
    fitting = [name for name in known if wanted.lower() in name.lower()]
    if not fitting:
        raise UnknownNameError("method", wanted, known)
    methods = {without_seed(name) for name in fitting}
    if len(methods) > 1:
        raise ComparisonError(f"'{wanted}' fits {len(methods)} methods: {', '.join(fitting)}. Give more of the name.")
    return min(methods) if min(methods) in fitting else fitting[0]


def cells_of_method(cells: Sequence[Cell], wanted: str) -> dict[str, list[Cell]]:
    """The cells of the method that is meant, by protocol fingerprint.

    A name without a training seed means all trainings of the method; with it, as leaderboards show it, that training.
    Several methods may share a name, for instance after a backbone was trained again: then a protocol has
    several cells, unless `wanted` is a label, the name with the start of the fingerprint.

    Args:
        cells: where to look.
        wanted: a name, a part of one, or a label.

    Raises:
        UnknownNameError: no method has this name.
        ComparisonError: names of several methods fit.
    """
    labels = {cell.method.label: cell.method.name for cell in cells}
    seeded = seeded_names(cells)
    called = {cell.key: {cell.method.name, seeded.get(cell.key, cell.method.name)} for cell in cells}
    name = labels[wanted] if wanted in labels else resolve_method(set().union(*called.values()), wanted)
    is_method = wanted not in labels and _means_all_trainings(name, wanted, called.values())
    by_protocol: dict[str, list[Cell]] = {}
    for cell in cells:
        if without_seed(cell.method.name) == without_seed(name) if is_method else name in called[cell.key]:
            by_protocol.setdefault(cell.protocol.fingerprint, []).append(cell)
    return {protocol: _meant(same, name, wanted) for protocol, same in by_protocol.items()}


def _meant(same: Sequence[Cell], name: str, wanted: str) -> list[Cell]:
    """The cells of one protocol that a label or a name means: a name, of methods with a training of just that name."""
    named = [trainings for trainings in trainings_of_methods(same) if name in {cell.method.name for cell in trainings}]
    of_methods = [cell for trainings in named for cell in trainings]
    return [cell for cell in same if cell.method.label == wanted] or of_methods or list(same)


def seeded_names(cells: Sequence[Cell]) -> dict[str, str]:
    """What to call the trainings of methods that have several, by cell key."""
    names: dict[str, str] = {}
    for trainings in trainings_of_methods(cells):
        if len(trainings) > 1:
            names |= names_of_trainings(trainings)
    return names


def _means_all_trainings(name: str, wanted: str, called: Iterable[Collection[str]]) -> bool:
    """Whether a text that was resolved to a name fits other trainings of the method as well."""
    if name == without_seed(name):
        return True
    fitting = {other for names in called for other in names if wanted.lower() in other.lower()}
    return wanted != name and len(fitting) > 1


def the_trainings(cells: Sequence[Cell]) -> list[Cell]:
    """The trainings of the one method on a protocol; raises ComparisonError if several methods share the name."""
    methods = trainings_of_methods(cells)
    if len(methods) > 1:
        labels = ", ".join(sorted(cell.method.label for cell in cells))
        raise ComparisonError(
            f"{cells[0].method.name} names {len(cells)} methods on {cells[0].protocol.task} that differ in weights, "
            f"hyper-parameters or code: {labels}. Name one of these, or delete the outcomes of the others."
        )
    return methods[0]


def shown_names(cells: Sequence[Cell]) -> dict[str, str]:
    """What to call methods, by the key of their cells: the name, or the label where the protocol has that name twice.

    Of a method with several trainings, the cell that stands for all (`method_cell`) is there beside those of the
    trainings, whose names say the seed.
    """
    methods = trainings_of_methods(cells)
    shown = [method_cell(trainings) for trainings in methods]
    count = Counter((cell.protocol.fingerprint, cell.method.name) for cell in shown)
    names = {
        cell.key: cell.method.name if count[cell.protocol.fingerprint, cell.method.name] == 1 else cell.method.label
        for cell in shown
    }
    return seeded_names(cells) | names


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
        ComparisonError: two methods of one protocol would have the same name.
    """
    called: dict[tuple[str, str], str] = {}
    owners: dict[tuple[str, str], str] = {}
    for row in frame.to_dict("records"):
        protocol, shown = row["protocol_fingerprint"], row["method"]
        label = next((labels[name] for name in reversed(_names_of(row)) if name in labels), shown)
        if label == shown and row.get("training_of") and (of_method := labels.get(without_seed(shown))):
            label = f"{of_method}, seed {int(row['training_seed'])}"
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


def without_common_prefix(names: Sequence[str]) -> tuple[str, list[str]]:
    """The stages that all methods begin with, and the names without them.

    Args:
        names: of methods; those without stages, such as published ones, do not count and stay whole.

    Returns:
        Whole stages with the slash behind them, and a shorter name for each name. The prefix is empty where there is
        a single method, where none is shared, and where two methods would get the same name or none without it.

    >>> without_common_prefix(["lite0@image_size=128/knn", "lite0@image_size=128/tim@alpha=2", "ResNet-12 MetaOptNet"])
    ('lite0@image_size=128/', ['knn', 'tim@alpha=2', 'ResNet-12 MetaOptNet'])
    """
    stages = [name.split("/") for name in dict.fromkeys(names) if "/" in name]
    shared = 0
    while len(stages) > 1 and all(len(parts) > shared + 1 and parts[shared] == stages[0][shared] for parts in stages):
        shared += 1
    prefix = "".join(f"{stage}/" for stage in stages[0][:shared]) if stages else ""
    shortened = [name.removeprefix(prefix) for name in names]
    is_clear = all(shortened) and len(set(shortened)) == len(set(names))
    return (prefix, shortened) if is_clear else ("", list(names))


def short_name(name: str, longest: int) -> str:
    """A name without its middle if it has more than `longest` letters."""
    half = (longest - 1) // 2
    return name if len(name) <= longest else f"{name[:half]}{_CUT}{name[-half:]}"


def short_names(names: Sequence[str], longest: int) -> list[str]:
    """Names of at most `longest` letters; those that the middle tells apart are cut at the ends instead.

    Where one is longer, the stages that all methods share are dropped first. Where nothing helps, names get the
    numbers of their places, from 1.
    """
    if any(len(name) > longest for name in names):
        _, names = without_common_prefix(names)
    short = [short_name(name, longest) for name in names]
    for text in {text for text in short if short.count(text) > 1}:
        alike = [place for place, other in enumerate(short) if other == text]
        if len({names[place] for place in alike}) > 1:
            same = len(os.path.commonprefix([names[place] for place in alike]))  # noqa: RUF071  # letters are meant
            start = max(0, same - longest // 3)
            for place in alike:
                short[place] = _window(names[place], start, longest)
    return [f"{text} #{place}" if short.count(text) > 1 else text for place, text in enumerate(short, 1)]


def marked_names(
    names: Sequence[str], transductive: Collection[str], longest: int, mark: str = TRANSDUCTIVE
) -> list[str]:
    """Names of at most `longest` letters in which transductive methods say so: the mark is never cut.

    Args:
        names: of the methods.
        transductive: which of them are.
        longest: of a name with its mark.
        mark: behind the name of a transductive one.
    """
    room = longest - len(mark) if any(name in transductive for name in names) else longest
    short = short_names(names, room)
    return [f"{text}{mark}" if name in transductive else text for name, text in zip(names, short, strict=True)]


def _window(name: str, start: int, longest: int) -> str:
    room = longest - 1 if start else longest
    rest = name[start:]
    return (_CUT if start else "") + (rest if len(rest) <= room else f"{rest[: room - 1]}{_CUT}")


def task_text(row: Mapping[Any, Any]) -> str:
    """The task of a leaderboard's row, e.g. "cifar-fs 5-way 1-shot" or "cifar-100 whole test split"."""
    if is_whole(row):
        return printable(whole_task(row["dataset"], row["split"]))
    split = "" if row["split"] == "novel" else f" ({row['split']} split)"
    sampler = "" if row["sampler"] == "standard" else f" {row['sampler']}"
    return printable(f"{row['dataset']}{split} {row['way']}-way {row['shot']}-shot{sampler}")


def protocol_names(protocols: Sequence[ProtocolCard]) -> dict[str, str]:
    """What to call protocols, by fingerprint; see `task_names`."""
    return task_names({protocol.fingerprint: task_columns(protocol) for protocol in protocols})


def task_names(rows: Mapping[str, Mapping[Any, Any]]) -> dict[str, str]:
    """What to call the tasks of protocols: dataset and size, and where several are called so, what tells them apart.

    Args:
        rows: with the columns of `task_columns`, by the fingerprint of the protocol.

    Returns:
        By fingerprint, e.g. "cifar-fs 5-way 1-shot, seed 1"; no two are the same.
    """
    names = {key: task_text(row) for key, row in rows.items()}
    names = disambiguated(names, {key: f", {row.get('queries')} queries per class" for key, row in rows.items()})
    names = disambiguated(names, {key: f", seed {row.get('seed')}" for key, row in rows.items()})
    return disambiguated(names, {key: f" ({key[:8]})" for key in rows})


def disambiguated(names: Mapping[str, str], more: Mapping[str, str]) -> dict[str, str]:
    """The names, those that are equal with something more if that differs between them."""
    differing: dict[str, set[str]] = {}
    for key, name in names.items():
        differing.setdefault(name, set()).add(more[key])
    return {key: name + more[key] if len(differing[name]) > 1 else name for key, name in names.items()}


def is_whole(row: Mapping[Any, Any]) -> bool:
    """Whether a leaderboard's row is about a whole split, whose episodes are its images."""
    return bool(row["sampler"] == WHOLE_SAMPLER)


def unit_text(are_whole: Iterable[bool]) -> str:
    """What the pairs of a test are, from whether each of its tasks is a whole split."""
    kinds = set(are_whole)
    return "episodes" if kinds == {False} else "test images" if kinds == {True} else "episodes or test images"


def is_transductive(row: Mapping[Any, Any]) -> bool:
    """Whether a leaderboard's row is about a transductive method; a published row that does not say counts as none."""
    value = row.get("is_transductive")
    return value is not None and value == value and bool(value)


def has_odd_interval(row: Mapping[Any, Any]) -> bool:
    """Whether a leaderboard's row has an interval that is implausibly wide or narrow; only published rows have."""
    return any(flag.startswith("±") for flag in str(row.get("flags") or "").split("; "))


def trainings_text(row: Mapping[Any, Any], plus_minus: str = "±") -> str:
    """The trainings of a leaderboard's row, e.g. "3 trainings: SD 0.52, ±1.29"; empty where there are not several."""
    count = row.get("trainings")
    if count is None or count != count or count < 2:
        return ""
    return f"{int(count)} trainings: SD {row['training_sd']:.2f}, {plus_minus}{row['training_ci95']:.2f}"


def row_name(row: Mapping[Any, Any]) -> str:
    """The method of a leaderboard's row as people should read it."""
    return marked(row["method"], is_transductive(row))


def is_across(row: Mapping[Any, Any]) -> bool:
    """Whether a leaderboard's row is tested against a baseline of the other kind."""
    return BASELINE_KINDS[not is_transductive(row)] in str(row.get("flags") or "").split("; ")


def baseline_name(row: Mapping[Any, Any]) -> str:
    """The baseline of a measured row as people should read it."""
    return marked(row["baseline"], is_transductive(row) != is_across(row))


def value_text(value: object) -> str:
    """A hyper-parameter's value as people write it: 0.9, 1, 0.0001, true."""
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)

"""Store accuracies that other code computed. Everything is read and compared before anything is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import join, quote

import numpy as np
import pandas as pd

from fewshot_bench._io.versions import installed_version
from fewshot_bench.arguments import checked_arguments
from fewshot_bench.errors import AccuracyFileError
from fewshot_bench.interop.accuracy_files import read_accuracy_file
from fewshot_bench.interop.accuracy_rows import AccuracyRows, ClaimedRows, ImportOptions
from fewshot_bench.outcomes import Cell, OutcomeStore, ProtocolCard, claimed_method
from fewshot_bench.outcomes.claimed import NO_CLASSES, UNKNOWN_CORRECT
from fewshot_bench.outcomes.frame import episode_keys, run_and_episode
from fewshot_bench.outcomes.schema import NAME_RULE, is_name

_DIFFERENCES = {
    "accuracy": "another accuracy",
    "correct": "another number of correct answers",
    "queries": "another number of queries",
    "classes": "other classes",
}
__all__ = ["ImportOptions", "Imported", "import_outcomes"]


@dataclass(frozen=True)
class Imported:
    """The result for one method on one protocol.

    Attributes:
        cell: where its episodes are stored.
        episodes: how many were stored.
        known: how many were there already, with the same numbers.
        has_classes: whether the classes of all of these episodes are known.
    """

    cell: Cell
    episodes: int
    known: int
    has_classes: bool


@dataclass(frozen=True)
class ImportReport:
    """The result of an import.

    Attributes:
        imported: by protocol and method, in the order of the files.
        ignored: columns of long tables that have no meaning here, by file.
    """

    imported: Sequence[Imported]
    ignored: dict[str, list[str]]


@checked_arguments
def import_outcomes(
    paths: Sequence[str | Path],
    store: OutcomeStore,
    options: ImportOptions | None = None,
    *,
    arguments: Sequence[str] = (),
) -> ImportReport:
    """Store the accuracies of some files, all of them or none.

    Rows of one call claim the same episodes if they name the same task, run and episode; so do rows of several calls
    with the same name for `tasks`. Nothing can verify this, so every report says that it is claimed.

    Args:
        paths: CSV, TSV, Parquet, npy, npz, safetensors, or files of `torch.save`.
        store: where they are stored.
        options: what the files do not say themselves.
        arguments: of the command line, to be recorded with the outcomes.

    Raises:
        AccuracyFileError: a file cannot be read, a value is invalid, a method is stored with other numbers, two methods
            claim different classes of an episode, or methods would be paired without being declared as paired.
        OutcomeError: what is stored is damaged.

    >>> from pathlib import Path
    >>> from tempfile import TemporaryDirectory
    >>> import fewshot_bench as fb
    >>> accuracies = pd.DataFrame({"episode": [0, 1], "ours": [0.71, 0.64], "theirs": [0.68, 0.61]})
    >>> options = fb.ImportOptions(dataset="mine", way=5, shot=1, tasks="mine")
    >>> with TemporaryDirectory() as folder:
    ...     table = Path(folder, "accuracies.csv")
    ...     accuracies.to_csv(table, index=False)
    ...     report = fb.import_outcomes([table], fb.OutcomeStore(folder), options)
    >>> [(one.cell.method.name, one.episodes) for one in report.imported]
    [('ours', 2), ('theirs', 2)]
    """
    options = options or ImportOptions()
    store.check_folder()
    claims, unnamed, ignored = _read([Path(path) for path in paths], options)
    stored = [cell for cell in store.cells() if cell.protocol.is_claimed]
    _check_transductive(claims, stored, options)
    _check_pairs([claim for claim in claims if claim.protocol.fingerprint in unnamed], stored)
    protocols = {claim.protocol.fingerprint for claim in claims}
    frames = {cell.key: store.read(cell) for cell in stored if cell.protocol.fingerprint in protocols}
    planned = [(_cell(claim, arguments), claim) for claim in claims]
    new_rows = [_new_rows(cell, claim, frames) for cell, claim in planned]
    _check_classes(claims, stored, frames)
    imported = []
    for (cell, claim), new in zip(planned, new_rows, strict=True):
        if len(new):
            store.append_frame(cell, new)
        has_classes = bool((claim.frame["classes"] != NO_CLASSES).all())
        imported.append(Imported(cell, len(new), len(claim.frame) - len(new), has_classes))
    return ImportReport(imported, ignored)


def _read(paths: Sequence[Path], options: ImportOptions) -> tuple[list[ClaimedRows], set[str], dict[str, list[str]]]:
    """The claims of all files, the protocols whose tasks are named after a file alone, and the ignored columns."""
    if not paths:
        raise AccuracyFileError("no file is named. Name one or more files of accuracies.")
    tasks = options.tasks if options.tasks is not None else paths[0].stem
    if not is_name(tasks):
        raise AccuracyFileError(f"{tasks[:40]!r} is not a name for the tasks, which is {NAME_RULE}. Add --tasks NAME.")
    claims: dict[tuple[str, str], ClaimedRows] = {}
    ignored: dict[str, list[str]] = {}
    unnamed: set[str] = set()
    for path in paths:
        rows = AccuracyRows(read_accuracy_file(path, options.methods), options, tasks)
        if rows.ignored:
            ignored[str(path)] = rows.ignored
        for claim in rows.claims():
            key = (claim.protocol.fingerprint, claim.method)
            claims[key] = _joined(path, claims[key], claim) if key in claims else claim
            if not rows.names_tasks:
                unnamed.add(claim.protocol.fingerprint)
    return list(claims.values()), unnamed, ignored


def _joined(path: Path, first: ClaimedRows, second: ClaimedRows) -> ClaimedRows:
    """The rows of two files about one method, which share no episode and agree on whether it is transductive."""
    if first.is_transductive != second.is_transductive:
        raise AccuracyFileError(
            f"{path}: only one of its files says that '{second.method}' is transductive. Add --transductive "
            f"{quote(second.method)}. Nothing was imported."
        )
    frame = pd.concat([first.frame, second.frame], ignore_index=True)
    is_repeated = frame.duplicated(["run", "episode"]).to_numpy()
    if is_repeated.any():
        row = frame.iloc[int(np.argmax(is_repeated))]
        raise AccuracyFileError(
            f"{path}: '{second.method}' has episode {row['episode']} of run {row['run']}, as an earlier file has. "
            "Number the runs in a column 'run'. Nothing was imported."
        )
    return replace(first, frame=frame)


def _check_transductive(claims: Sequence[ClaimedRows], stored: Sequence[Cell], options: ImportOptions) -> None:
    """See that `--transductive` names methods of the files, and that stored cells agree with it."""
    unknown = next((name for name in options.transductive if name not in {claim.method for claim in claims}), None)
    if unknown is not None:
        raise AccuracyFileError(f"--transductive {quote(unknown)}: no file has such a method. Nothing was imported.")
    by_method = {(cell.protocol.fingerprint, cell.method.name): cell for cell in stored}
    for claim in claims:
        cell = by_method.get((claim.protocol.fingerprint, claim.method))
        if cell is not None and cell.method.is_transductive != claim.is_transductive:
            kinds = ("transductive", "inductive") if cell.method.is_transductive else ("inductive", "transductive")
            raise AccuracyFileError(
                f"{claim.method} is stored as {kinds[0]} and would be imported as {kinds[1]}. Say the same of it "
                f"(--transductive {quote(claim.method)}), or remove the stored one: fewshot-bench store prune "
                f"{cell.key}. Nothing was imported."
            )


def _check_pairs(claims: Sequence[ClaimedRows], stored: Sequence[Cell]) -> None:
    """Refuse to pair new methods with stored ones if only the name of a file says that the episodes are the same."""
    new = {(claim.protocol.fingerprint, claim.method) for claim in claims}
    by_protocol = {claim.protocol.fingerprint: claim for claim in claims}
    if new <= {(cell.protocol.fingerprint, cell.method.name) for cell in stored}:
        return
    for cell in stored:
        claim = by_protocol.get(cell.protocol.fingerprint)
        if claim is not None and (cell.protocol.fingerprint, cell.method.name) not in new:
            tasks = cell.protocol.sampler_settings["tasks"]
            raise AccuracyFileError(
                f"{claim.method} would be paired with {cell.method.name}, which was imported as tasks '{tasks}' "
                f"before. If the episodes are the same, say so with --tasks {quote(tasks)}; if not, give another name. "
                "Nothing was imported."
            )


def _cell(claim: ClaimedRows, arguments: Sequence[str]) -> Cell:
    method = claimed_method(claim.method, is_transductive=claim.is_transductive)
    provenance = {"commands": [join(["fewshot-bench", *arguments])]} if arguments else {}
    versions = {"fewshot-bench": installed_version("fewshot-bench")}
    return Cell(method, claim.protocol, versions, provenance=provenance)


def _new_rows(cell: Cell, claim: ClaimedRows, frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of a claim that are not stored yet; stored episodes must have the same numbers."""
    stored = frames.get(cell.key)
    if stored is None:
        return claim.frame
    rows = claim.frame.merge(stored[["run", "episode", *_DIFFERENCES]], "left", ["run", "episode"], suffixes=("", "_"))
    is_stored = rows["accuracy_"].notna().to_numpy()
    for name, difference in _DIFFERENCES.items():
        differs = is_stored & (rows[name] != rows[f"{name}_"]).to_numpy()
        if differs.any():
            row = rows.iloc[int(np.argmax(differs))]
            raise AccuracyFileError(
                f"{claim.method} is stored with {difference} of episode {row['episode']} of run {row['run']}, "
                f"{_shown(row[f'{name}_'])} and not {_shown(row[name])}. Import it under another name, or remove the "
                f"stored one: fewshot-bench store prune {cell.key}. Nothing was imported."
            )
    return claim.frame[~is_stored]


def _shown(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str):
        return repr(value[:40]) if value else "none"
    return "none" if value == UNKNOWN_CORRECT else str(value)


def _check_classes(claims: Sequence[ClaimedRows], stored: Sequence[Cell], frames: dict[str, pd.DataFrame]) -> None:
    """See that all methods of a protocol, stored ones included, claim the same classes of an episode."""
    known: dict[str, tuple[str, pd.Series]] = {}
    every: list[tuple[ProtocolCard, str, pd.DataFrame]] = [
        (cell.protocol, cell.method.name, frames[cell.key]) for cell in stored if cell.key in frames
    ]
    every += [(claim.protocol, claim.method, claim.frame) for claim in claims]
    for protocol, method, frame in every:
        named = frame[frame["classes"] != NO_CLASSES]
        if named.empty:
            continue
        classes = pd.Series(named["classes"].to_numpy(), index=episode_keys(named))
        other, theirs = known.setdefault(protocol.fingerprint, (method, classes))
        common = classes.index.intersection(theirs.index)
        differs = (classes[common] != theirs[common]).to_numpy()
        if differs.any():
            key = common[int(np.argmax(differs))]
            (run,), (episode,) = run_and_episode(np.array([key]))
            raise AccuracyFileError(
                f"{method} and {other} claim the same tasks '{protocol.sampler_settings['tasks']}', but episode "
                f"{episode} of run {run} has classes {classes[key][:40]!r} of one and {theirs[key][:40]!r} of the "
                "other. Give one of them another --tasks NAME. Nothing was imported."
            )
        new = classes[classes.index.difference(theirs.index)]
        known[protocol.fingerprint] = (other, pd.concat([theirs, new]) if len(new) else theirs)

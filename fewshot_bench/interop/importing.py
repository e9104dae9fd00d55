"""Store accuracies that other code computed. Everything is read and compared before anything is written."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import join, quote

import numpy as np
import pandas as pd

from fewshot_bench._io.versions import installed_version
from fewshot_bench.errors import AccuracyFileError
from fewshot_bench.interop.accuracy_files import read_accuracy_file
from fewshot_bench.interop.accuracy_rows import AccuracyRows, ClaimedRows, ImportOptions
from fewshot_bench.outcomes import Cell, OutcomeStore, ProtocolCard, claimed_method
from fewshot_bench.outcomes.claimed import NO_CLASSES, UNKNOWN_CORRECT
from fewshot_bench.outcomes.frame import episode_keys, run_and_episode
from fewshot_bench.outcomes.schema import NAME_RULE, is_name

_OTHERS = {
    "accuracy": "another accuracy",
    "correct": "another number of correct answers",
    "queries": "another number of queries",
    "classes": "other classes",
}
__all__ = ["ImportOptions", "Imported", "import_outcomes"]


@dataclass(frozen=True)
class Imported:
    """What has become of one method on one protocol.

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
    """What an import has done.

    Attributes:
        imported: by protocol and method, in the order of the files.
        ignored: columns of long tables that mean nothing here, by file.
    """

    imported: Sequence[Imported]
    ignored: dict[str, list[str]]


def import_outcomes(
    paths: Sequence[Path],
    store: OutcomeStore,
    options: ImportOptions | None = None,
    *,
    arguments: Sequence[str] = (),
) -> ImportReport:
    """Store the accuracies of some files, all of them or none.

    Rows of one call claim the same episodes where they name the same task, run and episode; so do rows of several calls
    that give `tasks` the same name. Nothing can verify it, so every report says that it is claimed.

    Args:
        paths: CSV, TSV, Parquet, npy, npz, safetensors, or files of `torch.save`.
        store: where they are stored.
        options: what the files do not say themselves.
        arguments: of the command line that asks for it, to be recorded with the outcomes.

    Raises:
        AccuracyFileError: a file cannot be read, a value is none, a method is stored with other numbers, two methods
            claim other classes of an episode, or methods would be paired that nobody has said to be.
        OutcomeError: what is stored is damaged.
    """
    options = options or ImportOptions()
    store.check_folder()
    claims, unnamed, ignored = _read(paths, options)
    stored = [cell for cell in store.cells() if cell.protocol.is_claimed]
    _refuse_contradicting_kinds(claims, stored, options)
    _refuse_silent_pairs([claim for claim in claims if claim.protocol.fingerprint in unnamed], stored)
    frames = {cell.key: store.read(cell) for cell in _involved(claims, stored)}
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
    """What all files claim together.

    Returns:
        The claims; the fingerprints of protocols whose tasks are named after a file alone; and the columns of each file
        that mean nothing.

    Raises:
        AccuracyFileError: one of them is refused, or two have the same episode of a method.
    """
    if not paths:
        raise AccuracyFileError("no file is named. Name one or more files of accuracies.")
    tasks = options.tasks if options.tasks is not None else paths[0].stem
    if not is_name(tasks):
        raise AccuracyFileError(f"{tasks[:40]!r} is not a name for the tasks, which is {NAME_RULE}. Add --tasks NAME.")
    claims: dict[tuple[str, str], ClaimedRows] = {}
    ignored, unnamed = {}, set()
    for path in paths:
        rows = AccuracyRows(read_accuracy_file(path, options.methods), options, tasks)
        ignored.update({str(path): rows.ignored} if rows.ignored else {})
        for claim in rows.claims():
            unnamed |= set() if rows.names_tasks else {claim.protocol.fingerprint}
            name = (claim.protocol.fingerprint, claim.method)
            claims[name] = _together(path, claims[name], claim) if name in claims else claim
    return list(claims.values()), unnamed, ignored


def _together(path: Path, first: ClaimedRows, second: ClaimedRows) -> ClaimedRows:
    """The rows of two files about one method.

    Raises:
        AccuracyFileError: an episode is in both, or only one says that the method is transductive.
    """
    if first.is_transductive != second.is_transductive:
        raise AccuracyFileError(
            f"{path}: only one of its files says that '{second.method}' is transductive. Add --transductive "
            f"{quote(second.method)}. Nothing was imported."
        )
    frame = pd.concat([first.frame, second.frame], ignore_index=True)
    again = frame.duplicated(["run", "episode"]).to_numpy()
    if again.any():
        row = frame.iloc[int(np.argmax(again))]
        raise AccuracyFileError(
            f"{path}: '{second.method}' has episode {row['episode']} of run {row['run']}, as an earlier file has. "
            "Number the runs in a column 'run'. Nothing was imported."
        )
    return replace(first, frame=frame)


def _refuse_contradicting_kinds(claims: Sequence[ClaimedRows], stored: Sequence[Cell], options: ImportOptions) -> None:
    """See that a method is transductive wherever it is said to be, and that there is one of each name that is said so.

    Raises:
        AccuracyFileError: a name is no method's, or a method is stored as one of the other kind.
    """
    unknown = next((name for name in options.transductive if name not in {claim.method for claim in claims}), None)
    if unknown is not None:
        raise AccuracyFileError(f"--transductive {quote(unknown)}: no file has such a method. Nothing was imported.")
    kinds = {(cell.protocol.fingerprint, cell.method.name): cell for cell in stored}
    for claim in claims:
        cell = kinds.get((claim.protocol.fingerprint, claim.method))
        if cell is not None and cell.method.is_transductive != claim.is_transductive:
            there, here = (
                ("transductive", "inductive") if cell.method.is_transductive else ("inductive", "transductive")
            )
            raise AccuracyFileError(
                f"{claim.method} is stored as {there} and would be imported as {here}. Say the same of it "
                f"(--transductive {quote(claim.method)}), or remove the stored one: fewshot-bench store prune "
                f"{cell.key}. Nothing was imported."
            )


def _refuse_silent_pairs(claims: Sequence[ClaimedRows], stored: Sequence[Cell]) -> None:
    """Refuse to pair new methods with stored ones unless somebody has said that their episodes are the same.

    Raises:
        AccuracyFileError: only the name of a file says it.
    """
    here = {(claim.protocol.fingerprint, claim.method) for claim in claims}
    new = {claim.protocol.fingerprint: claim for claim in claims}
    there = {(cell.protocol.fingerprint, cell.method.name) for cell in stored}
    if here <= there:
        return
    for cell in stored:
        name = (cell.protocol.fingerprint, cell.method.name)
        if name[0] in new and name not in here:
            tasks = cell.protocol.sampler_settings["tasks"]
            raise AccuracyFileError(
                f"{new[name[0]].method} would be paired with {cell.method.name}, which was imported as tasks '{tasks}' "
                f"before. If the episodes are the same, say so with --tasks {quote(tasks)}; if not, give another name. "
                "Nothing was imported."
            )


def _involved(claims: Iterable[ClaimedRows], stored: Sequence[Cell]) -> list[Cell]:
    """The stored cells of the protocols of some claims."""
    protocols = {claim.protocol.fingerprint for claim in claims}
    return [cell for cell in stored if cell.protocol.fingerprint in protocols]


def _cell(claim: ClaimedRows, arguments: Sequence[str]) -> Cell:
    provenance = {"commands": [join(["fewshot-bench", *arguments])]} if arguments else {}
    versions = {"fewshot-bench": installed_version("fewshot-bench")}
    return Cell(
        claimed_method(claim.method, is_transductive=claim.is_transductive),
        claim.protocol,
        versions,
        provenance=provenance,
    )


def _new_rows(cell: Cell, claim: ClaimedRows, frames: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """The rows of a claim that are not stored yet.

    Raises:
        AccuracyFileError: an episode is stored with other numbers.
    """
    stored = frames.get(cell.key)
    if stored is None:
        return claim.frame
    values = list(_OTHERS)
    both = claim.frame.merge(stored[["run", "episode", *values]], "left", on=["run", "episode"], suffixes=("", "_"))
    known = both["accuracy_"].notna().to_numpy()
    for name in values:
        differs = known & (both[name] != both[f"{name}_"]).to_numpy()
        if differs.any():
            row = both.iloc[int(np.argmax(differs))]
            raise AccuracyFileError(
                f"{claim.method} is stored with {_OTHERS[name]} of episode {row['episode']} of run {row['run']}, "
                f"{_told(row[f'{name}_'])} and not {_told(row[name])}. Import it under another name, or remove the "
                f"stored one: fewshot-bench store prune {cell.key}. Nothing was imported."
            )
    return claim.frame[~known]


def _told(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, str):
        return repr(value[:40]) if value else "none"
    return "none" if value == UNKNOWN_CORRECT else str(value)


def _check_classes(claims: Sequence[ClaimedRows], stored: Sequence[Cell], frames: dict[str, pd.DataFrame]) -> None:
    """See that all methods of a protocol claim the same classes of an episode, those that are stored included.

    Raises:
        AccuracyFileError: two claim others.
    """
    known: dict[str, tuple[str, pd.Series]] = {}
    everything: list[tuple[ProtocolCard, str, pd.DataFrame]] = [
        (cell.protocol, cell.method.name, frames[cell.key]) for cell in stored if cell.key in frames
    ]
    everything += [(claim.protocol, claim.method, claim.frame) for claim in claims]
    for protocol, method, frame in everything:
        named = frame[frame["classes"] != NO_CLASSES]
        if named.empty:
            continue
        classes = pd.Series(named["classes"].to_numpy(), index=episode_keys(named))
        if protocol.fingerprint not in known:
            known[protocol.fingerprint] = (method, classes)
            continue
        other, theirs = known[protocol.fingerprint]
        common = classes.index.intersection(theirs.index)
        differs = (classes[common] != theirs[common]).to_numpy()
        if differs.any():
            which = common[int(np.argmax(differs))]
            (run,), (episode,) = run_and_episode(np.array([which]))
            raise AccuracyFileError(
                f"{method} and {other} claim the same tasks '{protocol.sampler_settings['tasks']}', but episode "
                f"{episode} of run {run} has classes {classes[which][:40]!r} of one and "
                f"{theirs[which][:40]!r} of the other. Give one of them another --tasks NAME. Nothing was imported."
            )
        known[protocol.fingerprint] = (other, pd.concat([theirs, classes[classes.index.difference(theirs.index)]]))

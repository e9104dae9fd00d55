"""What the columns, marks and verdicts of printed tables mean: the lines below them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pandas as pd

from fewshot_bench._io.text import printable
from fewshot_bench.limits import WHOLE_SAMPLER
from fewshot_bench.outcomes import CLAIMED_SAMPLER
from fewshot_bench.report.leaderboard_rows import MEASURED, ONE_TRAINING
from fewshot_bench.report.names import (
    CLAIMED,
    TRAININGS_NOTE,
    TRANSDUCTIVE_NOTE,
    has_odd_interval,
    is_across,
    is_transductive,
    is_whole,
    task_text,
)
from fewshot_bench.report.verdicts import (
    ACROSS,
    CORRECTIONS,
    FOR_THESE_CLASSES,
    LETTER_COLUMNS,
    OF_THESE_TRAININGS,
    UNKNOWN,
    Claim,
    about_data,
    is_on_this_split,
)
from fewshot_bench.statistics import Correction

PUBLISHED, ODD, ACROSS_MARK = " *", " ?", " #"
"""Marks of published numbers, of implausible intervals, and of verdicts on an inductive and a transductive method."""
CORRECTED = "'"
"""Mark of p values that are corrected for the number of tests."""
NO_CLAIM_OVER_TRAININGS = "no letter claims anything about new trainings, which another seed would give"
ACROSS_NOTE = f"{ACROSS_MARK.strip()}: {ACROSS}"
REPORTED_NOTE = (
    "interval: where the measured mean lies against the reported interval; Welch: 95% CI of measured minus reported, "
    "which covers neither another training nor other classes and images"
)
DISJOINT = "disjoint"
RECALL_NOTE = "recall: mean over the classes; ECE: expected calibration error, 15 bins, mean over trainings"
WHOLE_NOTE = "images: 95% CI over the test images, of the mean over trainings; p: paired t-test over them"


def leaderboard_notes(frame: pd.DataFrame, claim: Claim) -> list[str]:
    """What the columns and marks of a leaderboard mean, a line each."""
    measured = frame[frame["source"] == MEASURED]
    whole = measured["sampler"] == WHOLE_SAMPLER
    drawn = measured[~whole]
    beyond = set(drawn["beyond"])
    unknown = {words.removeprefix(UNKNOWN) for words in beyond if words.startswith(UNKNOWN)}
    interval = "open" if len(drawn) and (drawn["sampler"] == DISJOINT).all() else "task"
    covers = {words for words in beyond if not words.startswith(UNKNOWN)}
    notes = interval_notes(covers, unknown, interval=interval) if len(drawn) or not len(measured) else []
    notes += [WHOLE_NOTE, RECALL_NOTE] if whole.any() else []
    if interval == "task" and (frame["sampler"] == DISJOINT).any():
        notes.append("open: 95% CI over episodes that share no image; it covers the images too")
    if frame["p"].notna().any():
        notes += correction_note(_correction(frame))
    if frame[LETTER_COLUMNS[claim]].notna().any():
        notes.append(letters_note(claim, _correction(frame)))
    if any(is_transductive(row) for row in frame.to_dict("records")):
        notes.append(TRANSDUCTIVE_NOTE)
    if any(is_across(row) for row in frame.to_dict("records")):
        notes.append(ACROSS_NOTE)
    if (frame["trainings"] > 1).any():
        notes.append(TRAININGS_NOTE)
    published = frame[[is_published(row) for row in frame.to_dict("records")]]
    if len(published):
        others = {"trainings" if is_whole(row) else "episodes" for row in published.to_dict("records")}
        how = " or ".join(
            {"trainings": "of other trainings", "episodes": "on other episodes"}[kind] for kind in sorted(others)
        )
        notes.append(f"{PUBLISHED.strip()}: as published, {how}; the CSV names the table")
    if any(has_odd_interval(row) for row in published.to_dict("records")):
        notes.append(f"{ODD.strip()}: implausibly wide or narrow interval; the CSV says why")
    if frame["reported"].notna().any():
        notes.append(REPORTED_NOTE)
    if frame["sampler"].str.startswith(CLAIMED_SAMPLER).any():
        notes.append(CLAIMED)
    return notes + verdict_notes(frame["verdict"].dropna()) + published_notes(published.to_dict("records"))


def published_notes(rows: Sequence[Mapping[Any, Any]]) -> list[str]:
    """The notes on published numbers, each once, with the rows that it is about."""
    tasks: dict[tuple[str, str], dict[str, None]] = {}
    for row in rows:
        if isinstance(row["note"], str):
            tasks.setdefault((row["note"], row["method"]), {})[task_text(row)] = None
    about: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (note, method), of_method in tasks.items():
        about.setdefault((note, tuple(of_method)), []).append(method)
    is_one_task = len({task_text(row) for row in rows}) == 1
    return [
        printable("; ".join(methods) + ("" if is_one_task else f" ({', '.join(where)})") + f": {note}")
        for (note, where), methods in about.items()
    ]


def interval_notes(
    covers: Collection[str], why_unknown: Collection[str], level: str = "95%", *, interval: str = "task"
) -> list[str]:
    """What the two intervals cover, and why a data interval is missing."""
    over = "episodes" if interval == "task" else "episodes that share no image; it covers the images too"
    notes = [f"{interval}: {level} CI over {over}" + "".join(f"; data: over {words}" for words in sorted(covers))]
    notes += [f"no data interval: {why}" for why in sorted(why_unknown)]
    return notes


def verdict_notes(verdicts: Collection[str]) -> list[str]:
    """What the qualified verdicts among some claim."""
    notes = []
    if any(is_on_this_split(words) for words in verdicts):
        notes.append("on this split: shown for these classes and images, and not beyond them")
    if any(about_data(words).endswith(FOR_THESE_CLASSES) for words in verdicts):
        notes.append("for these classes: shown for new images of the same classes")
    if any(words.endswith(OF_THESE_TRAININGS) for words in verdicts):
        notes.append("of these trainings: not shown for new trainings, which another seed would give")
    return notes


def correction_note(correction: Correction) -> list[str]:
    """What the mark of corrected p values says; nothing where they are not corrected."""
    return (
        [] if correction == "none" else [f"p{CORRECTED}: corrected for the number of tests ({CORRECTIONS[correction]})"]
    )


def letters_note(claim: Claim, correction: Correction) -> str:
    """What the letters of a claim say."""
    where = "beyond this split" if claim == "beyond" else "on this split"
    return (
        f"same: methods that share a letter are not shown to differ {where} ({CORRECTIONS[correction]}, 5%); "
        f"{NO_CLAIM_OVER_TRAININGS}"
    )


def is_published(row: Mapping[Any, Any]) -> bool:
    """Whether a leaderboard's row is a published number."""
    return row["source"] not in (MEASURED, ONE_TRAINING)


def _correction(frame: pd.DataFrame) -> Correction:
    corrections: list[Correction] = frame["correction"].dropna().tolist()
    return corrections[0] if corrections else "holm"

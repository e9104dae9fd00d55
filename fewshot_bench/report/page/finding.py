"""The main finding, in a sentence or two."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fewshot_bench.report.page.content import PageContent, ProtocolResults
from fewshot_bench.report.page.plots.forest import tested_rows
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.verdicts import FOR_THESE_CLASSES, NOTHING_SHOWN, ON_THIS_SPLIT, UNKNOWN, headline
from fewshot_bench.report.wording import baseline_name, is_across, p_of_both, row_name
from fewshot_bench.statistics import Covered, DataInterval

_OTHERWISE: dict[Covered, str] = {
    "classes and images": " With other classes and images it may be otherwise.",
    "images of these classes": " With other images of these classes it may be otherwise.",
}
Tested = tuple[ProtocolResults, dict[Any, Any]]


def main_finding(content: PageContent) -> str:
    """What the results show, as plain text: against the baselines where there are any, else of the two best."""
    best = [found for protocol in content.protocols if (found := _best_tested(protocol)) is not None]
    if best:
        return _against_baselines(best)
    paired = [protocol for protocol in content.protocols if protocol.pairs is not None]
    if paired:
        return _of_the_two_best(paired[0])
    if content.protocols:
        return _alone(content.protocols[0])
    return "Nothing was measured here; the table holds published numbers alone."


def _best_tested(protocol: ProtocolResults) -> Tested | None:
    """The measured row with the strongest claim to be better, else the one that comes closest."""
    measured = _measured(protocol).to_dict("records")
    return (protocol, max(measured, key=_preference)) if measured else None


def _preference(row: dict[Any, Any]) -> tuple[bool, bool, int, float]:
    """What makes a row the finding: that it is better, that it is of the baseline's kind, how far that is shown."""
    return _merit(row)[0] > 0, not is_across(row), *_merit(row)


def _merit(row: dict[Any, Any]) -> tuple[int, float]:
    order = (f"better{ON_THIS_SPLIT}", f"better{FOR_THESE_CLASSES}", "better")
    return order.index(row["verdict"]) + 1 if row["verdict"] in order else 0, float(row["difference"])


def _against_baselines(best: list[Tested]) -> str:
    better = [found for found in best if _merit(found[1])[0]]
    if not better:
        return _none_better(best)
    protocol, row = max(better, key=lambda found: _preference(found[1]))
    first = f"{row_name(row)} against {baseline_name(row)} on {protocol.name}: {_answer(row)}.{_reservation(row)}"
    first += _few_classes(protocol, row["method"], row["baseline"])
    if len(best) == 1:
        return first
    on_split = sum(found[1]["verdict"].endswith(ON_THIS_SPLIT) for found in better)
    how = {0: "", len(better): ", on these classes and images"}.get(
        on_split, f", on {on_split} of them on these classes and images alone"
    )
    return f"{first} On {len(better)} of {len(best)} protocols a method is better than the baseline{how}."


def _none_better(best: list[Tested]) -> str:
    where = f"on {len(best)} protocols" if len(best) > 1 else f"on {best[0][0].name}"
    protocol, row = max(best, key=lambda found: float(found[1]["difference"]))
    closest = f"{row_name(row)} comes closest{f' on {protocol.name}' if len(best) > 1 else ''}: {_answer(row)}"
    names = {baseline_name(found[1]) for found in best}
    baseline = names.pop() if len(names) == 1 else "the baseline"
    verdicts = {word for found, _ in best for word in _measured(found)["verdict"]}
    if verdicts and all(word.startswith("worse") for word in verdicts):
        on_split = f",{ON_THIS_SPLIT}" if any(word.endswith(ON_THIS_SPLIT) for word in verdicts) else ""
        return f"Every other method is worse than {baseline} {where}{on_split}; {closest}.{_reservation(row)}"
    return f"No method is shown to be better than {baseline} {where}; {closest}."


def _few_classes(protocol: ProtocolResults, a: str, b: str) -> str:
    """Which few classes carry a difference, as a sentence; empty where many do, or it is unknown."""
    pair = protocol.by_class
    is_over_classes = "classes and images" in protocol.rows["beyond"].tolist()
    if pair is None or (pair.a, pair.b) != (a, b) or not (pair.classes.warning and is_over_classes):
        return ""
    return f" {pair.classes.warning}."


def _measured(protocol: ProtocolResults) -> pd.DataFrame:
    rows = tested_rows(protocol)
    return rows[rows["source"] == MEASURED]


def _reservation(row: dict[Any, Any]) -> str:
    """What a difference means that is shown on this split alone."""
    return _OTHERWISE[_covers(row)] if row["verdict"].endswith(ON_THIS_SPLIT) else ""


def _covers(row: dict[Any, Any]) -> Covered:
    return "images of these classes" if row["beyond"] == "images of these classes" else "classes and images"


def _answer(row: dict[Any, Any]) -> str:
    """The headline of a row of the leaderboard, with the p of both claims."""
    beyond, p = row["beyond"], row["p_beyond_corrected"]
    why = beyond.removeprefix(UNKNOWN) if beyond.startswith(UNKNOWN) else "" if beyond else "no class sizes are known"
    low, high = row["diff_data_ci95_low"], row["diff_data_ci95_high"]
    if low != low and not why:  # the row's own interval is known, from more episodes
        why = "there are too few common episodes"
    interval = DataInterval(row["difference"], low, high, p, _covers(row), why)
    task = row["diff_ci95_high"] - row["difference"]
    sentence = headline(interval, task, row["verdict"], is_across=is_across(row))
    return f"{sentence} ({p_of_both(row['p_corrected'], p)})"


def _of_the_two_best(protocol: ProtocolResults) -> str:
    pairs = protocol.pairs
    assert pairs is not None
    first, second = pairs.methods[:2]
    kinds = {name in protocol.transductive for name in (first, second)}
    kind = "transductive" if True in kinds else "inductive"
    two = f"two best {kind} methods" if protocol.transductive and len(kinds) == 1 else "two best"
    named = f"{protocol.shown(first)} and {protocol.shown(second)}"
    p, interval, found = float(pairs.p[0, 1]), pairs.best_two, pairs.verdict(0, 1)
    if p != p or interval is None:
        return f"The {two} on {protocol.name}, {named}, share too few episodes to be tested."
    said = headline(interval, pairs.best_two_task, found, is_across=len(kinds) > 1)
    answer = f"{said} ({p_of_both(p, float(pairs.p_beyond[0, 1]))})"
    if found == NOTHING_SHOWN:
        return f"Of the {two} on {protocol.name}, {named}, neither is shown to be better: {answer}."
    otherwise = _OTHERWISE[interval.covers] if found.endswith(ON_THIS_SPLIT) else ""
    few = _few_classes(protocol, first, second)
    against = f"{protocol.shown(first)} against {protocol.shown(second)}"
    return f"The {two} on {protocol.name}, {against}: {answer}.{otherwise}{few}"


def _alone(protocol: ProtocolResults) -> str:
    rows = protocol.measured
    row = rows.to_dict("records")[0]
    spread = f" ± {row['ci95']:.2f}" if row["ci95"] == row["ci95"] else ""
    reached = f"{row_name(row)} reaches {row['mean']:.2f}{spread} % on {protocol.name}"
    return f"{reached}; there is nothing to test it against."

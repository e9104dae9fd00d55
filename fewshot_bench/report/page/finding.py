"""The main finding, in a sentence or two."""

from __future__ import annotations

from typing import Any

import pandas as pd

from fewshot_bench.report.page.content import PageContent, ProtocolResults
from fewshot_bench.report.page.plots.forest import tested_rows
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.wording import NOTHING_SHOWN, p_equation, p_header, verdict

_ALONE = "on these classes and images alone"
_OTHERWISE = " The data interval includes 0: with other classes and images it may be otherwise."
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
    """The measured row that is shown to be better, here or at all, else the one that comes closest."""
    measured = _measured(protocol).to_dict("records")
    return (protocol, max(measured, key=_merit)) if measured else None


def _merit(row: dict[Any, Any]) -> tuple[int, float]:
    order = ("better here", "better")
    return order.index(row["verdict"]) if row["verdict"] in order else -1, float(row["difference"])


def _against_baselines(best: list[Tested]) -> str:
    better = [found for found in best if _merit(found[1])[0] >= 0]
    if not better:
        return _none_better(best)
    protocol, row = max(better, key=lambda found: _merit(found[1]))
    named = f"{row['method']} is {_words(row['verdict'])} than {row['baseline']} on {protocol.name}"
    first = f"{named}: {_numbers(row)}.{_reservation(row)}"
    if len(best) == 1:
        return first
    here = sum(found[1]["verdict"] == "better here" for found in better)
    how = {0: "", len(better): ", on these classes and images"}.get(here, f", on {here} of them {_ALONE}")
    return f"{first} On {len(better)} of {len(best)} protocols a method is better than the baseline{how}."


def _none_better(best: list[Tested]) -> str:
    where = f"on {len(best)} protocols" if len(best) > 1 else f"on {best[0][0].name}"
    protocol, row = max(best, key=lambda found: float(found[1]["difference"]))
    closest = f"{row['method']} comes closest{f' on {protocol.name}' if len(best) > 1 else ''}: {_numbers(row)}"
    names = {found[1]["baseline"] for found in best}
    baseline = names.pop() if len(names) == 1 else "the baseline"
    verdicts = {word for found, _ in best for word in _measured(found)["verdict"]}
    if verdicts <= {"worse", "worse here"}:
        word = "better here" if "worse here" in verdicts else "better"
        return f"{baseline} is {_words(word)} than every other method {where}; {closest}.{_reservation(row)}"
    return f"No method is shown to be better than {baseline} {where}; {closest}."


def _measured(protocol: ProtocolResults) -> pd.DataFrame:
    rows = tested_rows(protocol)
    return rows[rows["source"] == MEASURED]


def _words(found: str) -> str:
    return "better here, on these classes and images," if found == "better here" else found


def _reservation(row: dict[Any, Any]) -> str:
    """What a difference means that the test shows on these classes, and the data interval not for others."""
    return _OTHERWISE if row["verdict"].endswith(" here") else ""


def _numbers(row: dict[Any, Any]) -> str:
    p = row["p_shown"]
    test = f", {p_equation(p, row['p_name'])}" if p == p else ""
    interval = f"95% interval {row['diff_ci95_low']:+.2f} to {row['diff_ci95_high']:+.2f} over tasks"
    if row["diff_data_ci95_low"] == row["diff_data_ci95_low"]:
        interval += f", {row['diff_data_ci95_low']:+.2f} to {row['diff_data_ci95_high']:+.2f} over data"
    return f"{row['difference']:+.2f} points ({interval}{test})"


def _of_the_two_best(protocol: ProtocolResults) -> str:
    pairs = protocol.pairs
    assert pairs is not None
    first, second = pairs.methods[:2]
    difference, p = float(pairs.difference[0, 1]), float(pairs.p[0, 1])
    if p != p:
        return f"The two best on {protocol.name}, {first} and {second}, share too few episodes to be tested."
    test = f"paired t-test, {p_equation(p, p_header(pairs.correction))}"
    found = verdict(difference, p, pairs.data_half_width)
    if found == NOTHING_SHOWN:
        return f"Of the two best on {protocol.name}, {first} and {second}, neither is shown to be better ({test})."
    if difference < 0:  # on the episodes they share, against their means over all of their own
        first, second, difference = second, first, -difference
    word = found.replace("worse", "better")
    otherwise = _OTHERWISE if word == "better here" else ""
    named = f"Of the two best on {protocol.name}, {first} is {_words(word)} than {second}"
    return f"{named}: {difference:+.2f} points ({test}).{otherwise}"


def _alone(protocol: ProtocolResults) -> str:
    rows = protocol.measured
    row = rows.iloc[0]
    spread = f" ± {row['ci95']:.2f}" if row["ci95"] == row["ci95"] else ""
    reached = f"{row['method']} reaches {row['mean']:.2f}{spread} % on {protocol.name}"
    return f"{reached}; there is nothing to test it against."

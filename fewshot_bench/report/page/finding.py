"""The main finding, in a sentence or two."""

from __future__ import annotations

from typing import Any

from fewshot_bench.report.page.content import PageContent, ProtocolResults
from fewshot_bench.report.page.plots.forest import tested_rows
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.wording import SIGNIFICANCE, p_text

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
    rows = tested_rows(protocol)
    measured = rows[rows["source"] == MEASURED]
    return (protocol, measured.iloc[0].to_dict()) if len(measured) else None


def _against_baselines(best: list[Tested]) -> str:
    better = [found for found in best if found[1]["verdict"] == "better"]
    if not better:
        protocol, row = max(best, key=lambda found: float(found[1]["difference"]))
        where = f"on {len(best)} protocols" if len(best) > 1 else f"on {protocol.name}"
        closest = f"{row['method']} comes closest{f' on {protocol.name}' if len(best) > 1 else ''}: {_numbers(row)}"
        if all(found[1]["verdict"] == "worse" for found in best):  # the best of each, so the others too
            return f"{row['baseline']} is better than every other method {where}; {closest}.{_reservation(row)}"
        return f"No method is shown to be better than {row['baseline']} {where}; {closest}."
    protocol, row = max(better, key=lambda found: float(found[1]["difference"]))
    first = f"{row['method']} is better than {row['baseline']} on {protocol.name}: {_numbers(row)}.{_reservation(row)}"
    if len(best) == 1:
        return first
    return f"{first} On {len(better)} of {len(best)} protocols a method is better than the baseline."


def _reservation(row: dict[Any, Any]) -> str:
    """A difference that the test shows on these classes, and the data interval not for others."""
    if row["diff_data_ci95_low"] <= 0 <= row["diff_data_ci95_high"]:
        return " The data interval includes 0: with other classes and images it may be otherwise."
    return ""


def _numbers(row: dict[Any, Any]) -> str:
    corrected = "corrected " if row["p_corrected"] == row["p_corrected"] else ""
    p = row["p_shown"]
    test = f", {corrected}p {'' if p < 1e-300 else '= '}{p_text(p)}" if p == p else ""
    interval = f"95% interval {row['diff_ci95_low']:+.2f} to {row['diff_ci95_high']:+.2f} over tasks"
    if row["diff_data_ci95_low"] == row["diff_data_ci95_low"]:
        interval += f", {row['diff_data_ci95_low']:+.2f} to {row['diff_data_ci95_high']:+.2f} over data"
    return f"{row['difference']:+.2f} points ({interval}{test})"


def _of_the_two_best(protocol: ProtocolResults) -> str:
    assert protocol.pairs is not None
    first, second = protocol.pairs.methods[:2]
    difference, p = float(protocol.pairs.difference[0, 1]), float(protocol.pairs.p[0, 1])
    test = f"paired t-test, corrected p {'' if p < 1e-300 else '= '}{p_text(p)}"
    if p >= SIGNIFICANCE or difference == 0:
        return f"Of the two best on {protocol.name}, {first} and {second}, neither is shown to be better ({test})."
    return f"{first} is better than {second}, the next best, on {protocol.name}: {difference:+.2f} points ({test})."


def _alone(protocol: ProtocolResults) -> str:
    rows = protocol.measured
    row = rows.iloc[0]
    spread = f" ± {row['ci95']:.2f}" if row["ci95"] == row["ci95"] else ""
    reached = f"{row['method']} reaches {row['mean']:.2f}{spread} % on {protocol.name}"
    return f"{reached}; there is nothing to test it against."

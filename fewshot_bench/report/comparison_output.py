"""Paired comparisons in a terminal of 80 columns or more: two methods in full, or many with their letters.

The same numbers as plain mappings, for `--json`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench._io.text import printable
from fewshot_bench.outcomes import ProtocolCard
from fewshot_bench.report.comparison import ClassDifferences, Comparison
from fewshot_bench.report.comparisons import OverDatasets, TaskComparison
from fewshot_bench.report.leaderboard_output import (
    ACROSS_MARK,
    ACROSS_NOTE,
    broken,
    claims_header,
    claims_text,
    coloured,
    correction_note,
    effect_header,
    interval_notes,
    letters_note,
    new_table,
    plus_minus_of,
    print_table,
    verdict_notes,
    verdict_width,
)
from fewshot_bench.report.names import CLAIMED, TRANSDUCTIVE_NOTE, protocol_names
from fewshot_bench.report.scores import task_columns
from fewshot_bench.report.verdicts import Claim, difference_text, p_equation, p_header, p_text, ranks_text
from fewshot_bench.statistics import FriedmanTest

_MOST_PAIRS = 45


def print_comparisons(
    tasks: Sequence[TaskComparison],
    datasets: Sequence[OverDatasets],
    console: Console,
    claim: Claim = "beyond",
    *,
    per_class: bool = False,
) -> None:
    """Print comparisons as `compare_tasks` and `over_datasets` return them.

    Args:
        tasks: the comparisons of each protocol.
        datasets: the tests over datasets.
        console: where to.
        claim: what letters say: who differs beyond this split, or on it.
        per_class: whether to print each comparison class by class too.
    """
    pairs = {(comparison.a, comparison.b) for task in tasks for comparison in task.comparisons}
    if len(pairs) == 1:
        _print_two(tasks, console)
    else:
        names = protocol_names([task.protocol for task in tasks])
        for task in tasks:
            _print_many(task, names[task.protocol.fingerprint], console, claim)
    if per_class:
        _print_classes(tasks, console)
    for result in datasets:
        _print_datasets(result, console)
    for note in _notes(tasks, claim, is_one_pair=len(pairs) == 1):
        console.print(Text(note, "dim"))
    _print_left_out(tasks, console)


def _print_left_out(tasks: Sequence[TaskComparison], console: Console) -> None:
    for task in tasks:
        for comparison in task.comparisons:
            if comparison.left_out:
                pair = f" {comparison.shown_a} - {comparison.shown_b}:" if len(task.comparisons) > 1 else ""
                console.print(Text(printable(f"{task.protocol.task}:{pair} {comparison.left_out}.")))
        for a, b in task.unpaired:
            sentence = (
                f"{task.protocol.task}: {task.shown(a)} and {task.shown(b)} share too few episodes to be compared."
            )
            console.print(Text(printable(sentence)))


def _print_two(tasks: Sequence[TaskComparison], console: Console) -> None:
    first = tasks[0].comparisons[0]
    console.print(Text.assemble("A: ", (printable(first.shown_a), "bold")))
    console.print(Text.assemble("B: ", (printable(first.shown_b), "bold")))
    named = _named(tasks)
    for name, comparison in named:
        title = f"{name}, {comparison.test.n:,} common episodes, A - B"
        console.print(Text(f"\n{title}"))
        console.print(coloured(comparison.headline, comparison.verdict, plus_minus_of(console)))
        console.print(Text(comparison.p_sentence))
        if comparison.few_classes:
            console.print(Text(printable(comparison.few_classes), "yellow"))
    console.print()
    print_table(console, "the same episodes by other measures", _checks(named))


def _named(tasks: Sequence[TaskComparison]) -> list[tuple[str, Comparison]]:
    """Every comparison with the name of its task."""
    names = protocol_names([task.protocol for task in tasks])
    return [(names[task.protocol.fingerprint], comparison) for task in tasks for comparison in task.comparisons]


def _checks(named: Sequence[tuple[str, Comparison]]) -> Table:
    table = new_table()
    table.add_column("task", overflow="fold")
    for header in ("Wilcoxon p", "flip p", "d_z", "W/T/L", "P(A>B)", "r", "pairing"):
        table.add_column(header, justify="right", no_wrap=True)
    for name, comparison in named:
        paired, test = comparison.paired, comparison.test
        table.add_row(
            name,
            p_text(paired.wilcoxon_p),
            p_text(paired.permutation_p),
            f"{paired.effect_size:.2f}",
            f"{test.wins}/{test.ties}/{test.losses}",
            f"{paired.probability_of_improvement:.2f}",
            _number(paired.correlation),
            f"x{_number(paired.variance_reduction, 1)}",
        )
    return table


def _print_many(task: TaskComparison, title: str, console: Console, claim: Claim) -> None:
    letters, begun = _letters_of(task, claim), set[bool]()
    table = new_table()
    table.add_column("method")
    table.add_column("mean %", justify="right", no_wrap=True)
    if letters:
        table.add_column("same", no_wrap=True)
    has_both = 0 < len(task.transductive) < len(task.means)
    for name, mean in sorted(task.means.items(), key=lambda item: item[0] in task.transductive):
        if has_both and (name in task.transductive) not in begun:
            begun.add(name in task.transductive)
            table.add_row(Text("transductive" if name in task.transductive else "inductive", "italic"))
        own = [letters[name]] if letters else []
        table.add_row(Text("\n".join(broken(task.shown(name), console.width - 24))), f"{100 * mean:.2f}", *own)
    print_table(console, title, table)
    if len(task.comparisons) > _MOST_PAIRS:
        console.print(f"{len(task.comparisons)} pairs; see them with --json, or name a --baseline\n")
        return
    pairs = new_table()
    pairs.add_column("A - B")
    for header in (effect_header(console), claims_header(task.correction)):
        pairs.add_column(header, justify="right", no_wrap=True)
    pairs.add_column("A at 5%", max_width=verdict_width(console))
    for one in task.comparisons:
        width, mark = console.width - 66, ACROSS_MARK if one.is_across else ""
        names = "\n".join([*broken(one.shown_a, width), *broken(f"- {one.shown_b}", width)])
        p = claims_text(one.p_corrected, one.p_beyond_corrected)
        pairs.add_row(Text(names), _effect(one, console), p, coloured(f"{one.verdict}{mark}", one.verdict))
    console.print(pairs)
    for one in task.comparisons:
        if one.few_classes:
            console.print(Text(printable(f"{one.shown_a} - {one.shown_b}: {one.few_classes}"), "yellow"))
    console.print()


def _letters_of(task: TaskComparison, claim: Claim) -> Mapping[str, str]:
    return task.letters if claim == "beyond" else task.letters_split


def _print_classes(tasks: Sequence[TaskComparison], console: Console) -> None:
    """Each comparison class by class, the largest differences first."""
    for name, comparison in _named(tasks):
        title = f"{name}: {comparison.shown_a} - {comparison.shown_b}, class by class"
        classes = comparison.by_class
        if classes is None:
            console.print(Text(printable(f"{title}: unknown, as {_why_no_classes(comparison)}.")), end="\n\n")
            continue
        table = new_table()
        table.add_column("class")
        for header in ("A %", "B %", f"A - B {plus_minus_of(console)}task", "episodes"):
            table.add_column(header, justify="right", no_wrap=True)
        for one in classes.order.tolist():
            difference, width = 100 * classes.differences[one], 100 * classes.half_widths[one]
            table.add_row(
                Text(printable(classes.names[one])),
                f"{100 * classes.accuracy_a[one]:.1f}",
                f"{100 * classes.accuracy_b[one]:.1f}",
                f"{round(difference, 1) + 0.0:+.1f} {plus_minus_of(console)}{width:.1f}",
                f"{classes.episodes[one]:,}",
            )
        print_table(console, printable(title), table)


def _why_no_classes(comparison: Comparison) -> str:
    card = comparison.protocol
    if card is not None and card.is_claimed:
        return "imported accuracies hold no predictions"
    if card is not None and not card.has_even_queries:
        return "classes have different numbers of queries"
    return "the classes are not known, or too many methods are compared"


def _print_datasets(result: OverDatasets, console: Console) -> None:
    """The tests over datasets, in which each dataset counts once."""
    count = len(result.accuracies)
    table = new_table()
    table.add_column("A - B")
    p_headers = (p_header(result.correction).replace("p", "t-test p", 1), "Wilcoxon p", "least p")
    for header in (f"points {plus_minus_of(console)} 95% CI", *p_headers):
        table.add_column(header, justify="right", no_wrap=True)
    for (a, b), paired in list(result.pairs.items())[:_MOST_PAIRS]:
        test = paired.test
        half_width = 100 * (test.ci_high - test.mean_difference)
        effect = f"{100 * test.mean_difference + 0.0:+.2f} {plus_minus_of(console)} {half_width:.2f}"
        mark = ACROSS_MARK if (a in result.transductive) != (b in result.transductive) else ""
        width = console.width - 68
        names = "\n".join([*broken(result.shown(a), width), *broken(f"- {result.shown(b)}{mark}", width)])
        tests = (p_text(result.p_corrected[a, b]), p_text(paired.wilcoxon_p), p_text(paired.smallest_p))
        table.add_row(Text(names), Text(effect), *tests)
    print_table(console, f"over {count} datasets, {result.task}: one pair per dataset", table)
    if result.ranks is not None:
        _print_ranks(result, result.ranks, console)


def _print_ranks(result: OverDatasets, ranks: FriedmanTest, console: Console) -> None:
    table = new_table()
    table.add_column("method")
    table.add_column("mean rank", justify="right", no_wrap=True)
    for name, rank in zip(result.accuracies.columns, ranks.mean_ranks, strict=True):
        table.add_row(Text("\n".join(broken(result.shown(str(name)), console.width - 14))), f"{rank:.2f}")
    title = f"Friedman {p_equation(ranks.p)}, Iman-Davenport {p_equation(ranks.iman_davenport_p)}"
    print_table(console, f"{title}; {ranks_text(len(ranks.mean_ranks), ranks.critical_difference)}", table)


def _effect(comparison: Comparison, console: Console) -> str:
    test, data = comparison.test, comparison.data
    task = 100 * (test.ci_high - test.mean_difference)
    ends = (100 * test.mean_difference, 100 * data.low, 100 * data.high)
    return difference_text(*ends, task, plus_minus_of(console))


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _notes(tasks: Sequence[TaskComparison], claim: Claim, *, is_one_pair: bool) -> list[str]:
    comparisons = [comparison for task in tasks for comparison in task.comparisons]
    covers = {comparison.data.covers for comparison in comparisons if not comparison.data.why_unknown}
    why = {comparison.data.why_unknown for comparison in comparisons if comparison.data.why_unknown}
    level = next((comparison.level for comparison in comparisons if comparison.level != "95%"), "95%")
    notes = [] if is_one_pair else interval_notes(covers, why, level)
    if is_one_pair:
        notes.append("p on this split: paired t-test; beyond it: by inverting the interval over classes and images")
        notes.append("flip: exact sign-flip test; W/T/L: episodes that A wins, ties, loses")
        notes.append("d_z: difference / its sd; r: correlation; pairing: times fewer episodes needed")
    elif any(_letters_of(task, claim) for task in tasks):
        notes.append(letters_note(claim, tasks[0].correction))
    if not is_one_pair:
        notes += correction_note(tasks[0].correction)
    if any(task.transductive for task in tasks):
        notes.append(TRANSDUCTIVE_NOTE)
    if not is_one_pair and any(comparison.is_across for comparison in comparisons):
        notes.append(ACROSS_NOTE)
    if any(task.protocol.is_claimed for task in tasks):
        notes.append(CLAIMED)
    return notes + verdict_notes([comparison.verdict for comparison in comparisons])


def comparison_record(comparison: Comparison, *, per_class: bool = False) -> dict[str, Any]:
    """A comparison as a mapping; differences are in percentage points, what is infinite or unknown is None.

    Args:
        comparison: of two methods.
        per_class: add the differences class by class.
    """
    test, paired, protocol = comparison.test, comparison.paired, comparison.protocol
    data = comparison.data
    return {
        "method_a": comparison.a,
        "method_b": comparison.b,
        "is_a_transductive": comparison.is_a_transductive,
        "is_b_transductive": comparison.is_b_transductive,
        **({} if protocol is None else _protocol_record(protocol)),
        "episodes": test.n,
        "left_out_of_a": comparison.left_out_of_a,
        "left_out_of_b": comparison.left_out_of_b,
        "difference": 100 * test.mean_difference,
        "diff_ci95_low": 100 * test.ci_low,
        "diff_ci95_high": 100 * test.ci_high,
        "diff_data_ci95_low": _finite(100 * data.low),
        "diff_data_ci95_high": _finite(100 * data.high),
        "intervals": "95% each" if comparison.level == "95%" else comparison.level,
        "sd_difference": 100 * test.sd_difference,
        "t": _finite(test.t),
        "p": test.p,
        "p_corrected": _finite(comparison.p_corrected),
        "p_beyond": _finite(data.p),
        "p_beyond_corrected": _finite(comparison.p_beyond_corrected),
        "beyond": None if data.why_unknown else data.covers,
        "why_unknown": data.why_unknown or None,
        "wilcoxon_p": paired.wilcoxon_p,
        "sign_flip_p": paired.permutation_p,
        "effect_size": _finite(paired.effect_size),
        "probability_of_improvement": paired.probability_of_improvement,
        "correlation": _finite(paired.correlation),
        "variance_reduction": _finite(paired.variance_reduction),
        "wins": test.wins,
        "losses": test.losses,
        "ties": test.ties,
        "verdict": comparison.verdict,
        "headline": comparison.headline,
        "few_classes": comparison.few_classes or None,
        **({"per_class": class_records(comparison.by_class)} if per_class else {}),
    }


def class_records(classes: ClassDifferences | None) -> list[dict[str, Any]] | None:
    """Two methods class by class, the largest differences first; None where they are unknown."""
    if classes is None:
        return None
    return [
        {
            "class": classes.names[one],
            "accuracy_a": 100 * float(classes.accuracy_a[one]),
            "accuracy_b": 100 * float(classes.accuracy_b[one]),
            "difference": 100 * float(classes.differences[one]),
            "half_width": _finite(100 * float(classes.half_widths[one])),
            "episodes": int(classes.episodes[one]),
        }
        for one in classes.order.tolist()
    ]


def task_record(task: TaskComparison) -> dict[str, Any]:
    """The methods of one protocol as a mapping: their means in %, best first, and their letters."""
    return {
        **_protocol_record(task.protocol),
        "correction": task.correction,
        "unpaired": [list(pair) for pair in task.unpaired],
        "methods": [
            {
                "method": name,
                "is_transductive": name in task.transductive,
                "mean": 100 * mean,
                "group": task.letters.get(name),
                "group_split": task.letters_split.get(name),
            }
            for name, mean in task.means.items()
        ],
    }


def datasets_record(result: OverDatasets) -> dict[str, Any]:
    """The tests over datasets as a mapping; accuracies are in %, differences in percentage points."""
    ranks = result.ranks
    return {
        "task": result.task,
        "transductive": sorted(result.transductive & set(result.accuracies.columns)),
        "accuracies": {
            str(dataset): {str(method): 100 * float(value) for method, value in row.items()}
            for dataset, row in result.accuracies.to_dict("index").items()
        },
        "pairs": [
            {
                "method_a": a,
                "method_b": b,
                "is_a_transductive": a in result.transductive,
                "is_b_transductive": b in result.transductive,
                "datasets": paired.test.n,
                "difference": 100 * paired.test.mean_difference,
                "diff_ci95_low": 100 * paired.test.ci_low,
                "diff_ci95_high": 100 * paired.test.ci_high,
                "p": paired.test.p,
                "p_corrected": result.p_corrected[a, b],
                "correction": result.correction,
                "wilcoxon_p": paired.wilcoxon_p,
                "sign_flip_p": paired.permutation_p,
                "smallest_sign_flip_p": paired.smallest_p,
            }
            for (a, b), paired in result.pairs.items()
        ],
        "friedman": None
        if ranks is None
        else {
            "statistic": ranks.statistic,
            "p": ranks.p,
            "iman_davenport": _finite(ranks.iman_davenport),
            "iman_davenport_p": ranks.iman_davenport_p,
            "mean_ranks": dict(zip(map(str, result.accuracies.columns), map(float, ranks.mean_ranks), strict=True)),
            "critical_difference": ranks.critical_difference,
            "can_differ": ranks.can_differ,
        },
    }


def _protocol_record(protocol: ProtocolCard) -> dict[str, Any]:
    return {
        **task_columns(protocol),
        "dataset_fingerprint": protocol.dataset_fingerprint,
        "protocol_fingerprint": protocol.fingerprint,
        "note": CLAIMED if protocol.is_claimed else None,
    }


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

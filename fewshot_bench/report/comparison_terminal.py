"""Paired comparisons in a terminal of 80 columns or more: two methods in full, or many with their letters."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fewshot_bench.printable import printable
from fewshot_bench.report.comparison import Comparison
from fewshot_bench.report.comparisons import TaskComparison
from fewshot_bench.report.over_datasets import OverDatasets
from fewshot_bench.report.terminal import broken, coloured, new_table, plus_minus_of, print_table
from fewshot_bench.report.wording import (
    CLAIMED,
    CORRECTIONS,
    HERE,
    p_header,
    p_text,
    plus_minus_points,
    protocol_names,
    verdict,
)
from fewshot_bench.statistics import FriedmanTest

_MOST_PAIRS = 45


def print_comparisons(tasks: Sequence[TaskComparison], datasets: Sequence[OverDatasets], console: Console) -> None:
    """Print comparisons as `compare_tasks` and `over_datasets` return them."""
    pairs = {(comparison.a, comparison.b) for task in tasks for comparison in task.comparisons}
    if len(pairs) == 1:
        _print_two(tasks, console)
    else:
        names = protocol_names([task.protocol for task in tasks])
        for task in tasks:
            _print_many(task, names[task.protocol.fingerprint], console)
    for result in datasets:
        _print_datasets(result, console)
    for note in _notes(tasks, is_one_pair=len(pairs) == 1):
        console.print(Text(note, "dim"))
    _print_left_out(tasks, console)


def _print_left_out(tasks: Sequence[TaskComparison], console: Console) -> None:
    for task in tasks:
        for comparison in task.comparisons:
            if comparison.left_out:
                console.print(Text(printable(f"{task.protocol.task}: {comparison.left_out}.")))
        for a, b in task.unpaired:
            sentence = f"{task.protocol.task}: {a} and {b} share too few episodes to be compared."
            console.print(Text(printable(sentence)))


def _print_two(tasks: Sequence[TaskComparison], console: Console) -> None:
    comparisons = [comparison for task in tasks for comparison in task.comparisons]
    first = comparisons[0]
    console.print(Text.assemble("A: ", (printable(first.a), "bold")))
    console.print(Text.assemble("B: ", (printable(first.b), "bold")))
    names = protocol_names([task.protocol for task in tasks])
    table = new_table()
    table.add_column("task", overflow="fold")
    for header in ("episodes", _effect_header(comparisons, console), "p"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("A at 5%")
    for comparison in comparisons:
        p, test = comparison.p_corrected, comparison.test
        words = coloured(_verdict(comparison))
        table.add_row(
            names[comparison.protocol.fingerprint], f"{test.n:,}", _effect(comparison, console), p_text(p), words
        )
    print_table(console, "A - B, paired t-test on the same episodes", table)
    print_table(console, "the same episodes by other measures", _checks(comparisons, names))


def _checks(comparisons: Sequence[Comparison], names: Mapping[str, str]) -> Table:
    table = new_table()
    table.add_column("task", overflow="fold")
    for header in ("Wilcoxon p", "flip p", "d_z", "W/T/L", "P(A>B)", "r", "pairing"):
        table.add_column(header, justify="right", no_wrap=True)
    for comparison in comparisons:
        paired, test = comparison.paired, comparison.test
        table.add_row(
            names[comparison.protocol.fingerprint],
            p_text(paired.wilcoxon_p),
            p_text(paired.permutation_p),
            f"{paired.effect_size:.2f}",
            f"{test.wins}/{test.ties}/{test.losses}",
            f"{paired.probability_of_improvement:.2f}",
            _number(paired.correlation),
            f"x{_number(paired.variance_reduction, 1)}",
        )
    return table


def _print_many(task: TaskComparison, title: str, console: Console) -> None:
    table = new_table()
    table.add_column("method")
    table.add_column("mean %", justify="right", no_wrap=True)
    if task.letters:
        table.add_column("same", no_wrap=True)
    for name, mean in task.means.items():
        letters = [task.letters[name]] if task.letters else []
        table.add_row(Text("\n".join(broken(name, console.width - 24))), f"{100 * mean:.2f}", *letters)
    print_table(console, title, table)
    if len(task.comparisons) > _MOST_PAIRS:
        console.print(f"{len(task.comparisons)} pairs; see them with --json, or name a --baseline\n")
        return
    pairs = new_table()
    pairs.add_column("A - B")
    for header in (_effect_header(task.comparisons, console), p_header(task.correction)):
        pairs.add_column(header, justify="right", no_wrap=True)
    pairs.add_column("A at 5%", no_wrap=True)
    for comparison in task.comparisons:
        words = _verdict(comparison)
        names = "\n".join([*broken(comparison.a, console.width - 60), *broken(f"- {comparison.b}", console.width - 60)])
        pairs.add_row(Text(names), _effect(comparison, console), p_text(comparison.p_corrected), coloured(words))
    console.print(pairs)
    console.print()


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
        effect = plus_minus_points(100 * test.mean_difference, half_width, math.nan, plus_minus_of(console))
        names = "\n".join([*broken(a, console.width - 68), *broken(f"- {b}", console.width - 68)])
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
        table.add_row(Text("\n".join(broken(str(name), console.width - 14))), f"{rank:.2f}")
    title = (
        f"Friedman p {p_text(ranks.p)} (Iman-Davenport {p_text(ranks.iman_davenport_p)}); "
        f"ranks {ranks.critical_difference:.2f} apart differ (Nemenyi)"
    )
    print_table(console, title, table)


def _effect_header(comparisons: Sequence[Comparison], console: Console) -> str:
    with_data = any(not math.isnan(comparison.data_half_width) for comparison in comparisons)
    sign = plus_minus_of(console)
    return f"points {sign} task" + (f" {sign} data" if with_data else "")


def _effect(comparison: Comparison, console: Console) -> str:
    test = comparison.test
    task, data = 100 * (test.ci_high - test.mean_difference), 100 * comparison.data_half_width
    return plus_minus_points(100 * test.mean_difference, task, data, plus_minus_of(console))


def _verdict(comparison: Comparison) -> str:
    return verdict(comparison.test.mean_difference, comparison.p_corrected, comparison.data_half_width)


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _notes(tasks: Sequence[TaskComparison], *, is_one_pair: bool) -> list[str]:
    with_data = any(c.data_half_width == c.data_half_width for task in tasks for c in task.comparisons)
    notes = ["task: 95% CI over episodes" + ("; data: over classes and images too" if with_data else "")]
    if is_one_pair:
        notes.append("flip: exact sign-flip test; W/T/L: episodes that A wins, ties, loses")
        notes.append("d_z: difference / its sd; r: correlation; pairing: times fewer episodes needed")
    elif any(task.letters for task in tasks):
        how = CORRECTIONS[tasks[0].correction]
        notes.append(f"same: methods that share a letter are not shown to differ (paired t, {how}, 5%)")
    if any(_verdict(comparison).endswith("here") for task in tasks for comparison in task.comparisons):
        notes.append(HERE)
    if any(task.protocol.is_claimed for task in tasks):
        notes.append(CLAIMED)
    return notes

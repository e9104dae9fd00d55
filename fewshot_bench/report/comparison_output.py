"""Paired comparisons as tables for a terminal of 80 columns or more, and as plain mappings for `--json`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

from rich.console import Console
from rich.text import Text

from fewshot_bench._io.text import printable
from fewshot_bench.outcomes import ProtocolCard
from fewshot_bench.report.comparison import ClassDifferences, Comparison
from fewshot_bench.report.comparisons import OverDatasets, TaskComparison
from fewshot_bench.report.leaderboard_output import (
    broken,
    claims_header,
    claims_text,
    coloured,
    effect_header,
    new_table,
    plus_minus_of,
    prefix_header,
    print_table,
    verdict_width,
)
from fewshot_bench.report.names import (
    CLAIMED,
    ONE_TRAINING_NOTE,
    TRANSDUCTIVE_NOTE,
    protocol_names,
    unit_text,
    without_common_prefix,
)
from fewshot_bench.report.notes import (
    ACROSS_MARK,
    ACROSS_NOTE,
    WHOLE_NOTE,
    correction_note,
    interval_notes,
    letters_note,
    verdict_notes,
)
from fewshot_bench.report.scores import task_columns
from fewshot_bench.report.verdicts import Claim, difference_text, p_equation, p_header, p_text, ranks_text

_MOST_PAIRS = 45
_BOTH_P = "p on this split: paired t-test; beyond it: by inverting the interval over classes and images"


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
    _print_unpaired(tasks, console)


def _print_unpaired(tasks: Sequence[TaskComparison], console: Console) -> None:
    for task in tasks:
        sentences = [
            f"{f' {pair.shown_a} - {pair.shown_b}:' if len(task.comparisons) > 1 else ''} {pair.unpaired}."
            for pair in task.comparisons
            if pair.unpaired
        ]
        for a, b in task.unpaired:
            sentences.append(f" {task.shown(a)} and {task.shown(b)} share too few episodes to be compared.")
        for sentence in sentences:
            console.print(Text(printable(f"{task.protocol.task}:{sentence}")))


def _print_two(tasks: Sequence[TaskComparison], console: Console) -> None:
    """Two methods: the headline of each protocol, and the same episodes by other measures."""
    first = tasks[0].comparisons[0]
    console.print(Text.assemble("A: ", (printable(first.shown_a), "bold")))
    console.print(Text.assemble("B: ", (printable(first.shown_b), "bold")))
    table = new_table("task", "Wilcoxon p", "flip p", "d_z", "W/T/L", "P(A>B)", "r", "pairing")
    table.columns[0].overflow = "fold"
    for name, comparison in _named(tasks):
        paired, test = comparison.paired, comparison.test
        unit = "test images" if comparison.is_whole else "episodes"
        console.print(Text(f"\n{name}, {test.n:,} common {unit}, A - B"))
        console.print(coloured(comparison.headline, comparison.verdict, plus_minus_of(console)))
        console.print(Text(comparison.p_sentence))
        if comparison.training_sentence:
            console.print(Text(printable(comparison.training_sentence)))
        if comparison.by_seed is not None and comparison.by_seed.sentence:
            console.print(Text(printable(comparison.by_seed.sentence)))
        if comparison.few_classes:
            console.print(Text(printable(comparison.few_classes), "yellow"))
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
    console.print()
    unit = unit_text(task.protocol.is_whole for task in tasks)
    print_table(console, f"the same {unit} by other measures", table)


def _named(tasks: Sequence[TaskComparison]) -> list[tuple[str, Comparison]]:
    """Every comparison with the name of its task."""
    names = protocol_names([task.protocol for task in tasks])
    return [(names[task.protocol.fingerprint], comparison) for task in tasks for comparison in task.comparisons]


def _pair_text(a: str, b: str, width: int) -> Text:
    return Text("\n".join([*broken(a, width), *broken(f"- {b}", width)]))


def _print_many(task: TaskComparison, title: str, console: Console, claim: Claim) -> None:
    """Many methods: their means with letters, then the pairs."""
    letters, plus_minus = _letters_of(task, claim), plus_minus_of(console)
    table = new_table("method", "mean %")
    if letters:
        table.add_column("same", no_wrap=True)
    has_both = 0 < len(task.transductive) < len(task.means)
    by_kind = sorted(task.means, key=lambda name: name in task.transductive)
    shared, shortened = without_common_prefix([task.shown(name) for name in by_kind])
    short = dict(zip([task.shown(name) for name in by_kind], shortened, strict=True))
    if shared:
        table.columns[0].header = prefix_header(shared, console, console.width - 24)
    for is_transductive, names in groupby(by_kind, key=lambda name: name in task.transductive):
        if has_both:
            table.add_row(Text("transductive" if is_transductive else "inductive", "italic"))
        for name in names:
            own = [letters[name]] if letters else []
            lines = broken(short[task.shown(name)], console.width - 24)
            table.add_row(Text("\n".join(lines)), f"{100 * task.means[name]:.2f}", *own)
    print_table(console, title, table)
    if len(task.comparisons) > _MOST_PAIRS:
        console.print(f"{len(task.comparisons)} pairs; see them with --json, or name a --baseline\n")
        return
    is_whole = task.protocol.is_whole
    pairs = new_table(
        "A - B", effect_header(console, is_whole=is_whole), claims_header(task.correction, is_whole=is_whole)
    )
    pairs.add_column("A at 5%", max_width=verdict_width(console))
    for pair in task.comparisons:
        ends = (100 * pair.test.mean_difference, 100 * pair.data.low, 100 * pair.data.high)
        half_width = 100 * (pair.test.ci_high - pair.test.mean_difference)
        effect = difference_text(*ends, half_width, plus_minus, is_whole=is_whole)
        p = claims_text(pair.p_corrected, pair.p_beyond_corrected, is_whole=is_whole)
        verdict = coloured(f"{pair.verdict}{ACROSS_MARK if pair.is_across else ''}", pair.verdict)
        a, b = (short.get(name, name) for name in (pair.shown_a, pair.shown_b))
        pairs.add_row(_pair_text(a, b, console.width - 66), effect, p, verdict)
    console.print(pairs)
    for pair in task.comparisons:
        if max(pair.trainings) > 1:
            console.print(Text(printable(f"{pair.shown_a} - {pair.shown_b}: {pair.training_sentence}")))
        if pair.by_seed is not None and pair.by_seed.sentence:
            console.print(Text(printable(f"{pair.shown_a} - {pair.shown_b}: {pair.by_seed.sentence}")))
        if pair.few_classes:
            console.print(Text(printable(f"{pair.shown_a} - {pair.shown_b}: {pair.few_classes}"), "yellow"))
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
        interval, unit = ("images", "images") if comparison.is_whole else ("task", "episodes")
        table = new_table("class", "A %", "B %", f"A - B {plus_minus_of(console)}{interval}", unit)
        for record in class_records(classes) or []:
            half_width = math.nan if record["half_width"] is None else record["half_width"]
            table.add_row(
                Text(printable(record["class"])),
                f"{record['accuracy_a']:.1f}",
                f"{record['accuracy_b']:.1f}",
                f"{round(record['difference'], 1) + 0.0:+.1f} {plus_minus_of(console)}{half_width:.1f}",
                f"{record['episodes']:,}",
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
    p_headers = (p_header(result.correction).replace("p", "t-test p", 1), "Wilcoxon p", "least p")
    table = new_table("A - B", f"points {plus_minus_of(console)} 95% CI", *p_headers)
    pairs = list(result.pairs.items())[:_MOST_PAIRS]
    shown = [result.shown(name) for name in dict.fromkeys(name for pair, _ in pairs for name in pair)]
    _, shortened = without_common_prefix(shown)
    short = dict(zip(shown, shortened, strict=True))
    for (a, b), paired in pairs:
        half_width = 100 * (paired.test.ci_high - paired.test.mean_difference)
        effect = f"{100 * paired.test.mean_difference + 0.0:+.2f} {plus_minus_of(console)} {half_width:.2f}"
        mark = ACROSS_MARK if (a in result.transductive) != (b in result.transductive) else ""
        names = _pair_text(short[result.shown(a)], f"{short[result.shown(b)]}{mark}", console.width - 68)
        tests = (p_text(result.p_corrected[a, b]), p_text(paired.wilcoxon_p), p_text(paired.smallest_p))
        table.add_row(names, Text(effect), *tests)
    print_table(console, f"over {len(result.accuracies)} datasets, {result.task}: one pair per dataset", table)
    ranks = result.ranks
    if ranks is None:
        return
    table = new_table("method", "mean rank")
    shared, shortened = without_common_prefix([result.shown(str(name)) for name in result.accuracies.columns])
    if shared:
        table.columns[0].header = prefix_header(shared, console, console.width - 14)
    for text, rank in zip(shortened, ranks.mean_ranks, strict=True):
        table.add_row(Text("\n".join(broken(text, console.width - 14))), f"{rank:.2f}")
    title = f"Friedman {p_equation(ranks.p)}, Iman-Davenport {p_equation(ranks.iman_davenport_p)}"
    print_table(console, f"{title}; {ranks_text(len(ranks.mean_ranks), ranks.critical_difference)}", table)


def _number(value: float, digits: int = 2) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _notes(tasks: Sequence[TaskComparison], claim: Claim, *, is_one_pair: bool) -> list[str]:
    """What the columns and the verdicts mean."""
    comparisons = [comparison for task in tasks for comparison in task.comparisons]
    whole = [task.protocol.is_whole for task in tasks]
    unit = unit_text(whole)
    if is_one_pair:
        notes = [
            *([] if all(whole) else [_BOTH_P]),
            *([WHOLE_NOTE] if any(whole) else []),
            f"flip: exact sign-flip test; W/T/L: {unit} that A wins, ties, loses",
            f"d_z: difference / its sd; r: correlation; pairing: times fewer {unit} needed",
        ]
    elif all(whole):
        notes = [WHOLE_NOTE]
        if any(_letters_of(task, claim) for task in tasks):
            notes.append(letters_note(claim, tasks[0].correction))
        notes += correction_note(tasks[0].correction)
    else:
        episodes = [comparison for comparison in comparisons if not comparison.is_whole]
        covers = {comparison.data.covers for comparison in episodes if not comparison.data.why_unknown}
        why = {comparison.data.why_unknown for comparison in comparisons if comparison.data.why_unknown}
        level = next((comparison.level for comparison in comparisons if comparison.level != "95%"), "95%")
        notes = [*interval_notes(covers, why, level), *([WHOLE_NOTE] if any(whole) else [])]
        if any(_letters_of(task, claim) for task in tasks):
            notes.append(letters_note(claim, tasks[0].correction))
        notes += correction_note(tasks[0].correction)
    if not is_one_pair and any(comparison.trainings == (1, 1) for comparison in comparisons):
        notes.append(ONE_TRAINING_NOTE)
    if any(task.transductive for task in tasks):
        notes.append(TRANSDUCTIVE_NOTE)
    if not is_one_pair and any(comparison.is_across for comparison in comparisons):
        notes.append(ACROSS_NOTE)
    if any(task.protocol.is_claimed for task in tasks):
        notes.append(CLAIMED)
    return notes + verdict_notes([comparison.verdict for comparison in comparisons])


def comparison_record(comparison: Comparison, *, per_class: bool = False) -> dict[str, Any]:
    """A comparison as a mapping: differences in percentage points, None for what is infinite or unknown."""
    test, paired, protocol = comparison.test, comparison.paired, comparison.protocol
    data, training = comparison.data, comparison.training
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
        "trainings_a": comparison.trainings[0],
        "trainings_b": comparison.trainings[1],
        "diff_training_ci95_low": None if training is None else 100 * training.low,
        "diff_training_ci95_high": None if training is None else 100 * training.high,
        "p_training": None if training is None else _finite(training.p),
        "p_training_corrected": _finite(comparison.p_training_corrected),
        "covers_new_training": comparison.training_sentence or None,
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
        **_whole_record(comparison),
        **({"per_class": class_records(comparison.by_class)} if per_class else {}),
    }


def _whole_record(comparison: Comparison) -> dict[str, Any]:
    """What a comparison on a whole split has beside the rest; nothing for episodes."""
    tests = comparison.by_seed
    return {} if tests is None else {"images_left_out": comparison.images_left_out, **tests.as_dict()}


def class_records(classes: ClassDifferences | None) -> list[dict[str, Any]] | None:
    """Two methods class by class, the largest differences first; None where they are unknown."""
    if classes is None:
        return None
    return [
        {
            "class": classes.names[number],
            "accuracy_a": 100 * float(classes.accuracy_a[number]),
            "accuracy_b": 100 * float(classes.accuracy_b[number]),
            "difference": 100 * float(classes.differences[number]),
            "half_width": _finite(100 * float(classes.half_widths[number])),
            "episodes": int(classes.episodes[number]),
        }
        for number in classes.order.tolist()
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

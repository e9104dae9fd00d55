"""Two methods or many, on every protocol they share and over datasets, with p corrected for the number of tests.

Over several datasets each dataset counts once: paired t-tests, and the ranks of Demsar (2006).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from typing import Any, get_args

import numpy as np
import pandas as pd

from fewshot_bench.errors import ComparisonError, OutcomeError
from fewshot_bench.limits import WHOLE_SAMPLER
from fewshot_bench.outcomes import STANDARD_SAMPLER, Cell, OutcomeStore, ProtocolCard, marked
from fewshot_bench.report.by_seed import corrected_by_seed
from fewshot_bench.report.comparison import FEWEST_PAIRS, Comparison, check_same_protocol, comparison_of
from fewshot_bench.report.names import cells_of_method, seeded_names, shown_names, the_trainings
from fewshot_bench.report.scores import TaskScores, over_trainings, stored_scores, task_columns
from fewshot_bench.report.trainings import trainings_of_methods, without_training_seed
from fewshot_bench.report.verdicts import SIGNIFICANCE, Claim, corrected_claims, corrected_with_unknown
from fewshot_bench.statistics import (
    Correction,
    FriedmanTest,
    PairedComparison,
    compact_letters,
    corrected,
    friedman,
    paired_over_datasets,
)

_MOST_METHODS = 100
_MOST_BY_CLASS = 25
"""Methods whose predictions are read, to see which classes carry a difference."""


@dataclass(frozen=True)
class TaskComparison:
    """Some methods on one protocol.

    Attributes:
        protocol: that all were run on.
        means: mean accuracy of each method on its episodes (as a fraction), by name, best first.
        comparisons: all pairs, or all others against the baseline.
        letters: of each method, by name; those that share one are not shown to differ beyond this split. Empty against
            a baseline, and where no pair can be tested for that claim.
        letters_split: the same for differences on this split.
        correction: of the p values, over the comparisons of this protocol.
        unpaired: pairs that share fewer than two episodes, by their names; they are not tested.
        transductive: names of the methods that see all queries of an episode at once.
    """

    protocol: ProtocolCard
    means: Mapping[str, float]
    comparisons: Sequence[Comparison]
    letters: Mapping[str, str]
    letters_split: Mapping[str, str]
    correction: Correction
    unpaired: Sequence[tuple[str, str]] = ()
    transductive: frozenset[str] = frozenset()

    def shown(self, name: str) -> str:
        """A method's name as people should read it."""
        return marked(name, name in self.transductive)


def compare_tasks(
    store: OutcomeStore,
    methods: Sequence[str] = (),
    *,
    baseline: str | None = None,
    correct: Correction = "holm",
    strict: bool = False,
    simultaneous: bool = False,
) -> list[TaskComparison]:
    """Compare stored methods on every protocol that two of them share.

    Args:
        store: where the outcomes are.
        methods: names, parts that no other name has, or labels; every stored method by default.
        baseline: compare the others with this one alone, instead of all pairs.
        correct: how p is corrected for the number of comparisons on one protocol.
        strict: refuse episodes that only one method of a pair has.
        simultaneous: widen the intervals of a protocol's comparisons so that all of them hold together in 95% of the
            studies (Bonferroni); by default each does.

    Returns:
        One entry per protocol, sorted by dataset, way and shot.

    Raises:
        UnknownNameError: no method has this name.
        ComparisonError: two names mean one method, a name means several, no protocol is common, or methods have
            different episodes under `strict`.
    """
    cells = store.cells()
    if not cells:
        raise OutcomeError(f"there are no outcomes in {store.folder}. Make some with: fewshot-bench run")
    wanted = [*methods, *([baseline] if baseline is not None else [])] if methods else []
    twice = next((name for name in methods if list(methods).count(name) > 1 or list(methods) == [baseline]), None)
    if twice is not None:
        raise ComparisonError(f"'{twice}' is named twice. Name two different methods.")
    by_method = _named(cells, wanted) if wanted else _all_methods(cells)
    reference = None if baseline is None else _one_name(cells, baseline)
    names = shown_names([cell for of_method in by_method for same in of_method.values() for cell in same])
    names |= seeded_names(cells)
    tasks = []
    for protocol in _common_protocols(by_method):
        chosen = [the_trainings(of_method[protocol]) for of_method in by_method if protocol in of_method]
        _check_distinct(chosen, wanted)
        every = [cell for trainings in chosen for cell in trainings]
        scores = over_trainings(stored_scores(store, every, by_class=len(every) <= _MOST_BY_CLASS), chosen)
        task = _compared(scores, names, reference, correct, simultaneous=simultaneous)
        if task is not None:
            tasks.append(task)
    if not tasks:
        raise ComparisonError(f"{baseline} shares no protocol with another method of {store.folder}.")
    if strict:
        _refuse_left_out(tasks)
    if not any(task.comparisons for task in tasks):
        a, b = tasks[0].unpaired[0]
        raise ComparisonError(
            f"{a} and {b} share fewer than two episodes of {tasks[0].protocol.task}. Run both on the same runs."
        )
    return [task for task in tasks if task.comparisons]


def compare_methods(store: OutcomeStore, a: str, b: str) -> list[Comparison]:
    """Compare two stored methods on every protocol that both were run on.

    Args:
        store: where the outcomes are.
        a: name of one method, a part that no other name has, or a label.
        b: the other.

    Returns:
        The comparison of A with B on each common protocol, sorted by dataset, way and shot.

    Raises:
        UnknownNameError: no method has this name.
        ComparisonError: both names mean one method, a name means several, or no protocol is common.
    """
    return [comparison for task in compare_tasks(store, [a, b]) for comparison in task.comparisons]


def stored_pairs(store: OutcomeStore, a: str, b: str) -> list[TaskScores]:
    """The scores of two stored methods, in this order, on each protocol that both were run on.

    Raises:
        UnknownNameError, ComparisonError: as `compare_tasks`.
    """
    by_method = _named(store.cells(), [a, b])
    pairs = []
    for protocol in _common_protocols(by_method):
        chosen = [the_trainings(of_method[protocol]) for of_method in by_method]
        _check_distinct(chosen, [a, b])
        scores = stored_scores(store, [cell for trainings in chosen for cell in trainings])
        pairs.append(over_trainings(scores, chosen))
    return pairs


def _compared(
    scores: TaskScores, names: Mapping[str, str], baseline: str | None, correct: Correction, *, simultaneous: bool
) -> TaskComparison | None:
    """The comparisons on pair protocol; None where the baseline was not run on it."""
    positions = range(len(scores.cells))
    if baseline is None:
        if len(scores.cells) > _MOST_METHODS:
            raise ComparisonError(
                f"{len(scores.cells)} methods on {scores.protocol.task} make {len(scores.cells) ** 2 // 2:,} pairs. "
                "Name some of them, or compare all with pair --baseline; the leaderboard has letters for all."
            )
        pairs = list(combinations(positions, 2))
    else:
        at = [position for position in positions if baseline in _names_of(scores, position, names)]
        if not at:
            return None
        pairs = [(position, at[0]) for position in positions if position != at[0]]
    shared = [(a, b) for a, b in pairs if scores.pair(a, b).sum() >= FEWEST_PAIRS]
    unpaired = [(names[scores.cells[a].key], names[scores.cells[b].key]) for a, b in pairs if (a, b) not in shared]
    confidence = 1 - SIGNIFICANCE / len(shared) if simultaneous and shared else 1 - SIGNIFICANCE
    comparisons = [comparison_of(scores, a, b, names, confidence) for a, b in shared]
    claims = corrected_claims(
        [pair.p_corrected for pair in comparisons], [pair.p_beyond_corrected for pair in comparisons], correct
    )
    over = corrected_with_unknown(
        [pair.p_corrected for pair in comparisons], [pair.p_training_corrected for pair in comparisons], correct
    )
    one_by_one = corrected_by_seed(
        [pair.by_seed for pair in comparisons], [pair.p_corrected for pair in comparisons], correct
    )
    comparisons = [
        replace(
            comparison,
            p_corrected=float(split),
            p_beyond_corrected=float(beyond),
            p_training_corrected=float(p),
            by_seed=tests,
        )
        for comparison, split, beyond, p, tests in zip(comparisons, *claims, over, one_by_one, strict=True)
    ]
    means = {names[cell.key]: float(np.nanmean(scores.accuracy[row])) for row, cell in enumerate(scores.cells)}
    means = dict(sorted(means.items(), key=lambda item: -item[1]))
    letters = _letters(list(means), comparisons) if baseline is None else {}
    return TaskComparison(
        scores.protocol,
        means,
        comparisons,
        letters["beyond"] if letters else {},
        letters["split"] if letters else {},
        correct,
        unpaired,
        frozenset(names[cell.key] for cell in scores.cells if cell.method.is_transductive),
    )


def _letters(names: Sequence[str], comparisons: Sequence[Comparison]) -> dict[Claim, dict[str, str]]:
    """Compact letters of both claims, names from the best to the worst; empty for a claim that no pair can test."""
    row = {name: number for number, name in enumerate(names)}
    letters: dict[Claim, dict[str, str]] = {}
    for claim in get_args(Claim):
        p = np.ones((len(names),) * 2)
        for comparison in comparisons:
            a, b = row[comparison.a], row[comparison.b]
            p[a, b] = p[b, a] = comparison.p_beyond_corrected if claim == "beyond" else comparison.p_corrected
        has_tests = bool((~np.isnan(p[np.triu_indices(len(names), 1)])).any())
        letters[claim] = dict(zip(names, compact_letters(p < SIGNIFICANCE), strict=True)) if has_tests else {}
    return letters


def _named(cells: Sequence[Cell], wanted: Sequence[str]) -> list[dict[str, list[Cell]]]:
    return [cells_of_method(cells, name) for name in dict.fromkeys(wanted)]


def _all_methods(cells: Sequence[Cell]) -> list[dict[str, list[Cell]]]:
    """Every method by itself, with all of its trainings; those that share a name by their labels."""
    by_method: dict[str, dict[str, list[Cell]]] = {}
    trainings = trainings_of_methods(cells)
    several = {without_training_seed(same[0].method).label for same in trainings if len(same) > 1}
    for same in trainings:
        of_method, fingerprint = without_training_seed(same[0].method), same[0].method.fingerprint
        key = of_method.label if of_method.label in several else fingerprint
        by_method.setdefault(key, {}).setdefault(same[0].protocol.fingerprint, []).extend(same)
    if len(by_method) < 2:
        raise ComparisonError(
            f"a comparison needs two methods; {len(by_method)} {'is' if len(by_method) == 1 else 'are'} stored. "
            "Run another on the same episodes: fewshot-bench run --adapt ..."
        )
    return list(by_method.values())


def _one_name(cells: Sequence[Cell], baseline: str) -> str:
    """The name, or the label, of the method that a baseline means."""
    by_protocol = cells_of_method(cells, baseline)
    cell = next(iter(by_protocol.values()))[0]
    return baseline if baseline == cell.method.label else cell.method.name


def _names_of(scores: TaskScores, position: int, names: Mapping[str, str]) -> set[str]:
    """Every text that a method goes by."""
    several = scores.trainings[position] if scores.trainings else None
    cells = [scores.cells[position], *(several.cells if several is not None else ())]
    return {text for cell in cells for text in (cell.method.name, cell.method.label)} | {
        names[scores.cells[position].key]
    }


def _common_protocols(by_method: Sequence[Mapping[str, list[Cell]]]) -> list[str]:
    """Protocols of two methods or more, sorted; with none, methods that were named say what differs."""
    cards = {protocol: cells[0] for of_method in by_method for protocol, cells in of_method.items()}
    common = [protocol for protocol in cards if sum(protocol in of_method for of_method in by_method) > 1]
    if not common and len(by_method) > 1:
        (first, *_), (second, *_) = _closest(by_method[0], by_method[1])
        check_same_protocol(first.protocol, first.method.name, second.protocol, second.method.name)
    return sorted(common, key=lambda protocol: _order(cards[protocol]))


def _check_distinct(methods: Sequence[Sequence[Cell]], wanted: Sequence[str]) -> None:
    seen: dict[str, int] = {}
    for number, trainings in enumerate(methods):
        for cell in trainings:
            if cell.key in seen:
                names = " and ".join(f"'{name}'" for name in wanted)
                if len(methods[seen[cell.key]]) != len(trainings):
                    raise ComparisonError(
                        f"{names}: one is a training of the other. Name two methods, or two trainings."
                    )
                raise ComparisonError(f"{names} both mean {cell.method.name}. Name two different methods.")
            seen[cell.key] = number


def _refuse_left_out(tasks: Sequence[TaskComparison]) -> None:
    for task in tasks:
        if task.unpaired:
            a, b = task.unpaired[0]
            raise ComparisonError(f"{a} and {b} share fewer than two episodes of {task.protocol.task}. See --strict.")
        for comparison in task.comparisons:
            if comparison.unpaired:
                raise ComparisonError(
                    f"{task.protocol.task}: {comparison.unpaired}. Run both to the same length, or drop --strict."
                )


def _order(cell: Cell) -> tuple[object, ...]:
    card = cell.protocol
    return (card.dataset, card.split, card.way, card.shot, card.query, card.seed, card.fingerprint)


def _closest(a: Mapping[str, list[Cell]], b: Mapping[str, list[Cell]]) -> tuple[list[Cell], list[Cell]]:
    """The pair of protocols that differ in the fewest fields, for a message that helps."""

    def distance(pair: tuple[list[Cell], list[Cell]]) -> tuple[object, ...]:
        cards = [asdict(cells[0].protocol) for cells in pair]
        return (sum(cards[0][name] != cards[1][name] for name in cards[0]), *map(_order, (pair[0][0], pair[1][0])))

    return min(((cells_a, cells_b) for cells_a in a.values() for cells_b in b.values()), key=distance)


@dataclass(frozen=True, eq=False)
class OverDatasets:
    """Methods that were run on tasks of one size over several datasets.

    Attributes:
        task: the size, e.g. "5-way 1-shot" or "whole test split".
        accuracies: mean accuracy (as a fraction) by dataset and method, [D, A]; methods come by their mean rank.
        pairs: the paired comparison of A with B over the datasets, by their names.
        p_corrected: of the t-test of each pair, corrected for their number.
        correction: how.
        ranks: Friedman's test with Nemenyi's critical difference; None for two methods.
        transductive: names of the methods that see all queries of an episode at once.
    """

    task: str
    accuracies: pd.DataFrame
    pairs: dict[tuple[str, str], PairedComparison]
    p_corrected: dict[tuple[str, str], float]
    correction: Correction
    ranks: FriedmanTest | None
    transductive: frozenset[str] = frozenset()

    def shown(self, name: str) -> str:
        """A method's name as people should read it."""
        return marked(name, name in self.transductive)


def over_datasets(tasks: Sequence[TaskComparison]) -> list[OverDatasets]:
    """Test methods over the datasets that they share.

    Args:
        tasks: as `compare_tasks` returns them.

    Returns:
        One result for each size of task that two methods or more were run with on two datasets or more.
    """
    groups: dict[str, list[TaskComparison]] = {}
    for task in tasks:
        groups.setdefault(size_text(task_columns(task.protocol)), []).append(task)
    results = [_tested(size, same) for size, same in groups.items()]
    return [result for result in results if result is not None]


def size_text(row: Mapping[Any, Any]) -> str:
    """The size of the tasks of a row with the columns of `task_columns`, e.g. "5-way 1-shot, 15 queries per class".

    Whole splits are of one size, however many classes they have.
    """
    if row["sampler"] == WHOLE_SAMPLER:
        return f"whole {row['split']} split"
    split = "" if row["split"] == "novel" else f" ({row['split']} split)"
    sampler = "" if row["sampler"] == STANDARD_SAMPLER else f" {row['sampler']}"
    queries = f", {row['queries']} queries per class" if row["queries"] else ""  # claimed episodes do not say
    return f"{row['way']}-way {row['shot']}-shot{sampler}{split}{queries}"


def accuracies_by_dataset(tasks: Sequence[tuple[str, Mapping[str, float]]]) -> pd.DataFrame | None:
    """The methods that all of the datasets have; a dataset with two seeds counts once, by their mean.

    Args:
        tasks: the dataset and the mean accuracy of each method, by name.

    Returns:
        By dataset and method, [D, A], the methods by their mean rank; None for fewer than two of either.
    """
    table = pd.DataFrame([dict(means) for _, means in tasks], index=[dataset for dataset, _ in tasks])
    table = table.groupby(level=0).mean().dropna(axis=1)
    if len(table) < 2 or table.shape[1] < 2:
        return None
    mean_ranks = table.rank(axis=1, ascending=False).mean()
    return table[mean_ranks.sort_values(kind="stable").index]


def _tested(size: str, tasks: Sequence[TaskComparison]) -> OverDatasets | None:
    table = accuracies_by_dataset([(task.protocol.dataset, task.means) for task in tasks])
    if table is None:
        return None
    wanted = dict.fromkeys((pair.a, pair.b) for task in tasks for pair in task.comparisons)
    pairs = {(a, b): paired_over_datasets(table[a], table[b]) for a, b in wanted if {a, b} <= set(table.columns)}
    p = corrected([paired.test.p for paired in pairs.values()], tasks[0].correction)
    return OverDatasets(
        size,
        table,
        pairs,
        dict(zip(pairs, map(float, p), strict=True)),
        tasks[0].correction,
        friedman(table.to_numpy()) if table.shape[1] > 2 else None,
        frozenset[str]().union(*(task.transductive for task in tasks)),
    )

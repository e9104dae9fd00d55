"""Is method A better than method B, on the same episodes, and by how much?"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from fewshot_bench.errors import ComparisonError
from fewshot_bench.outcomes import Cell, Outcomes, OutcomeStore, ProtocolCard
from fewshot_bench.report.method_names import cells_of_method, shown_names, the_only
from fewshot_bench.report.wording import p_text
from fewshot_bench.statistics import PairedTest, paired_t_test


@dataclass(frozen=True)
class Comparison:
    """The paired test of two methods.

    Attributes:
        a: name of one method.
        b: name of the other.
        protocol: that both were run on.
        test: of the accuracies (as fractions) on the common episodes.
        left_out_of_a: episodes of A that B has not seen.
        left_out_of_b: episodes of B that A has not seen.
    """

    a: str
    b: str
    protocol: ProtocolCard
    test: PairedTest
    left_out_of_a: int = 0
    left_out_of_b: int = 0

    def __str__(self) -> str:
        test = self.test
        sentence = (
            f"{self.a} - {self.b} = {100 * test.mean_difference:+.2f} points "
            f"(95% CI {100 * test.ci_low:.2f} to {100 * test.ci_high:.2f}), "
            f"paired t-test p {'' if test.p < 1e-300 else '= '}{p_text(test.p)}, {test.n:,} episodes"
        )
        return f"{sentence}; {self.left_out}" if self.left_out else sentence

    @property
    def left_out(self) -> str:
        """Which episodes could not be paired, in words; empty if all could."""
        counts = ((self.left_out_of_a, self.a), (self.left_out_of_b, self.b))
        parts = [f"{count:,} of {name}" for count, name in counts if count]
        return f"left out, for want of a partner: {' and '.join(parts)}" if parts else ""


def compare(a: Outcomes, b: Outcomes) -> Comparison:
    """Compare two methods by a paired t-test on the episodes that both have seen.

    Args:
        a: outcomes of one method.
        b: outcomes of the other, on the same protocol.

    Returns:
        The test of A minus B; printing it gives one sentence.

    Raises:
        ComparisonError: the protocols differ, or fewer than two episodes are common.
    """
    names = shown_names([a.cell, b.cell])
    name_a, name_b = names[a.cell.key], names[b.cell.key]
    _check_same_protocol(a.cell.protocol, name_a, b.cell.protocol, name_b)
    pairs = pair_episodes(a.frame, b.frame)
    if not len(pairs):
        raise ComparisonError(
            f"{name_a} and {name_b} have no episode of {a.cell.protocol.task} in common. Run both on the same runs."
        )
    test = paired_t_test(*accuracies_of(pairs))
    return Comparison(name_a, name_b, a.cell.protocol, test, len(a) - len(pairs), len(b) - len(pairs))


def compare_methods(store: OutcomeStore, a: str, b: str) -> list[Comparison]:
    """Compare two stored methods on every protocol that both were run on.

    Args:
        store: where the outcomes are.
        a: name of one method, a part that no other name has, or a label.
        b: the other.

    Returns:
        One comparison per common protocol, sorted by dataset, way and shot.

    Raises:
        UnknownNameError: no method is called so.
        ComparisonError: both names mean one method, a name means several, or no protocol is common.
    """
    cells = store.cells()
    cells_a, cells_b = cells_of_method(cells, a), cells_of_method(cells, b)
    common = sorted(set(cells_a) & set(cells_b), key=lambda protocol: _order(cells_a[protocol][0]))
    if not common:
        (first, *_), (second, *_) = _closest(cells_a, cells_b)
        _check_same_protocol(first.protocol, first.method.name, second.protocol, second.method.name)
    pairs = [(the_only(cells_a[protocol]), the_only(cells_b[protocol])) for protocol in common]
    for first, second in pairs:
        if first.key == second.key:
            raise ComparisonError(f"'{a}' and '{b}' both mean {first.method.name}. Name two different methods.")
    return [compare(store.outcomes(first), store.outcomes(second)) for first, second in pairs]


def pair_episodes(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Match the episodes of two frames of one protocol.

    Returns:
        Columns run, episode, accuracy_a, accuracy_b: one row per common episode, in order.
    """
    columns, identity = ["run", "episode", "accuracy"], ["run", "episode"]
    first, second = a[columns].drop_duplicates(identity), b[columns].drop_duplicates(identity)
    return first.merge(second, on=identity, suffixes=("_a", "_b")).sort_values(identity, ignore_index=True)


def accuracies_of(pairs: pd.DataFrame) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The two columns of accuracies of `pair_episodes`, [E] each."""
    return pairs["accuracy_a"].to_numpy(np.float64), pairs["accuracy_b"].to_numpy(np.float64)


def _check_same_protocol(a: ProtocolCard, name_a: str, b: ProtocolCard, name_b: str) -> None:
    fields_a, fields_b = asdict(a), asdict(b)
    different = [name for name in fields_a if fields_a[name] != fields_b[name]]
    if not different:
        return
    field = different[0]
    raise ComparisonError(
        f"{name_a} was run on {a.task} seed {a.seed}, {name_b} on {b.task} seed {b.seed}: {field.replace('_', ' ')} "
        f"differs ({_short(fields_a[field])} and {_short(fields_b[field])}), so no episode is the same. "
        "Run both with the same protocol."
    )


def _short(value: object) -> str:
    return f"{value:.12}" if isinstance(value, str) and len(value) == 64 else str(value)


def _order(cell: Cell) -> tuple[object, ...]:
    card = cell.protocol
    return (card.dataset, card.split, card.way, card.shot, card.query, card.seed, card.fingerprint)


def _closest(a: dict[str, list[Cell]], b: dict[str, list[Cell]]) -> tuple[list[Cell], list[Cell]]:
    """The pair of protocols that differ in the fewest fields, for a message that helps."""

    def distance(pair: tuple[list[Cell], list[Cell]]) -> tuple[object, ...]:
        cards = [asdict(cells[0].protocol) for cells in pair]
        return (sum(cards[0][name] != cards[1][name] for name in cards[0]), *map(_order, (pair[0][0], pair[1][0])))

    return min(((cells_a, cells_b) for cells_a in a.values() for cells_b in b.values()), key=distance)

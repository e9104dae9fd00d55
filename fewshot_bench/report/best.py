"""Which method for this data? The answer of a leaderboard in words, for inductive and transductive methods apart.

It says "best" only of a method that every other one of its kind is shown to be worse than, in the tests of all pairs
that stand behind the letters. So it does not matter that the best was picked by its own result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fewshot_bench.outcomes import CLAIMED_SAMPLER
from fewshot_bench.report.names import shared_stages
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.verdicts import BEST, HIGHEST, NOT_TESTED, NOTHING_SHOWN, ON_THIS_SPLIT, UNKNOWN
from fewshot_bench.report.wording import BALANCED_FLAG, CLAIMED_FLAG, CORRECTIONS, is_transductive, row_name, task_names

_MOST_NAMED = 5
_FAILED = " failed"
_AMONG = {
    False: "among inductive methods",
    True: "among transductive methods",
}


@dataclass(frozen=True)
class Answer:
    """Which method of one kind is best on one protocol.

    Attributes:
        protocol: its fingerprint.
        task: what people call it.
        is_transductive: of which kind the methods are.
        best: name of the method with the highest mean; it may be the only one.
        is_shown: whether each other one is shown to be worse, on this split at least.
        equals: methods that cannot be told from it on this split, best first.
        equals_beyond: further methods that cannot be told from it beyond this split.
        sentence: all of it in words.
        cost: what it costs in words; empty where no time is recorded.
    """

    protocol: str
    task: str
    is_transductive: bool
    best: str
    is_shown: bool
    equals: tuple[str, ...]
    equals_beyond: tuple[str, ...]
    sentence: str
    cost: str = ""

    def as_dict(self) -> dict[str, Any]:
        """The answer as plain data, for `--json`."""
        return {
            "method": self.best,
            "is_shown": self.is_shown,
            "not_told_apart": list(self.equals),
            "not_told_apart_beyond": [*self.equals, *self.equals_beyond],
            "sentence": self.sentence,
            "cost": self.cost or None,
        }


def answers(frame: pd.DataFrame) -> list[Answer]:
    """Answer for each protocol of a leaderboard, and each kind of method there.

    Args:
        frame: as `leaderboard` returns it, with all methods of its protocols; published rows do not count.

    Returns:
        In the order of the frame, inductive before transductive. Nothing for a protocol where no two methods are of
        one kind.
    """
    measured = frame[frame["source"] == MEASURED]
    if "against_best" not in frame:  # of an older release
        return []
    groups = {str(key): rows.to_dict("records") for key, rows in measured.groupby("protocol_fingerprint", sort=False)}
    tasks = task_names({key: rows[0] for key, rows in groups.items()})
    found = []
    for key, rows in groups.items():
        kinds = [[row for row in rows if is_transductive(row) == kind] for kind in (False, True)]
        if max(map(len, kinds)) > 1:
            _name_briefly(rows, is_marked=not all(kinds))
            found += [_answer(key, tasks[key], same, has_both=all(kinds)) for same in kinds if same]
    return found


def _name_briefly(rows: Sequence[dict[Any, Any]], *, is_marked: bool) -> None:
    """Give each row the name that the sentences use: without the stages in front that all methods share.

    Args:
        rows: of one protocol; each gets a value for "brief".
        is_marked: whether a transductive method says so; not where the sentence does.
    """
    shared = shared_stages([str(row["method"]) for row in rows])
    for row in rows:
        name = str(row["method"]).removeprefix(shared)
        row["brief"] = row_name({**row, "method": name}) if is_marked else name


def answer_lines(found: Sequence[Answer], *, with_cost: bool = True) -> list[str]:
    """The answers as text: per protocol its name, then a sentence for each kind of method.

    Args:
        found: as `answers` returns them.
        with_cost: whether to say how long an episode takes, which differs when a study is repeated.
    """
    lines, before = [], ""
    for one in found:
        if one.protocol != before:
            lines.append(f"Which method for {one.task}?")
        before = one.protocol
        lines.append(f"{one.sentence} {one.cost}".strip() if with_cost else one.sentence)
    return lines


def _answer(protocol: str, task: str, rows: Sequence[Mapping[Any, Any]], *, has_both: bool) -> Answer:
    """The answer of the rows of one kind, the highest mean first."""
    top = next((row for row in rows if row["against_best"] in (BEST, HIGHEST)), rows[0])
    others = [row for row in rows if row is not top]
    words = {word: [row for row in others if row["against_best"] == word] for word in (NOTHING_SHOWN, NOT_TESTED)}
    on_split = [row for row in others if str(row["against_best"]).endswith(f"worse{ON_THIS_SPLIT}")]
    above = [row for row in others if str(row["against_best"]).startswith("better")]
    equals = words[NOTHING_SHOWN]
    sentence = _highest(top, others, equals, on_split) + _odd(above, words[NOT_TESTED])
    if has_both:
        sentence = f"{_AMONG[is_transductive(top)]}, {sentence}"
    correction = CORRECTIONS[str(top["correction"])]
    how = f" (all pairs, {correction}, 5%)" if others else ""
    return Answer(
        protocol,
        task,
        is_transductive(top),
        str(top["method"]),
        top["against_best"] == BEST,
        tuple(str(row["method"]) for row in equals),
        tuple(str(row["method"]) for row in on_split),
        f"{sentence[0].upper() if has_both else sentence[0]}{sentence[1:]}{how}.{_reservations(top)}",
        _cost(top, equals),
    )


def _highest(
    top: Mapping[Any, Any],
    others: Sequence[Mapping[Any, Any]],
    equals: Sequence[Mapping[Any, Any]],
    on_split: Sequence[Mapping[Any, Any]],
) -> str:
    """What is shown of the method with the highest mean, no more than the tests of its pairs claim."""
    name, mean = top["brief"], f"({top['mean']:.2f}%)"
    if not others:
        return f"{name} is the only one {mean}"
    is_known = not str(top["beyond"]).startswith(UNKNOWN)
    wider = (
        "other images of these classes" if top["beyond"] == "images of these classes" else "other classes and images"
    )
    if top["against_best"] == BEST and not on_split:
        return f"{name} is the best {mean}, also for {wider}"
    if top["against_best"] == BEST:
        said = f"{name} is the best{ON_THIS_SPLIT} {mean}"
        if not is_known:
            return f"{said}; whether it is the best for {wider} is unknown"
        return f"{said}; for {wider}, {_cannot(on_split, others)}"
    said = f"{name} has the highest mean {mean}"
    if equals:
        said += f", but {_cannot(equals, others)}{ON_THIS_SPLIT}"
    if on_split and is_known:
        also = " either" if equals and len(on_split) < len(others) else ""
        said += f"{';' if equals else ', but'} for {wider}, {_cannot(on_split, others)}{also}"
    return said


def _cannot(rows: Sequence[Mapping[Any, Any]], others: Sequence[Mapping[Any, Any]]) -> str:
    if len(rows) == len(others) > _MOST_NAMED:
        return f"none of the {len(rows)} others can be told from it"
    return f"{_listed(rows)} cannot be told from it"


def _odd(above: Sequence[Mapping[Any, Any]], untested: Sequence[Mapping[Any, Any]]) -> str:
    """What is said of methods whose common episodes with the best say something else, or too little."""
    said = ""
    if above:
        said += f"; {_listed(above)} {'is' if len(above) == 1 else 'are'} better on the episodes that both have"
    if untested:
        said += f"; {_listed(untested)} {'shares' if len(untested) == 1 else 'share'} too few episodes with it"
    return said


def _listed(rows: Sequence[Mapping[Any, Any]]) -> str:
    """The names of up to five methods, and how many more there are."""
    names = [str(row["brief"]) for row in rows[:_MOST_NAMED]]
    more = len(rows) - len(names)
    if more:
        return f"{', '.join(names)} and {more} more"
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _reservations(top: Mapping[Any, Any]) -> str:
    """What else a reader should know of the method that is named first."""
    flags = str(top["flags"] or "").split("; ")
    failed = next(
        (f" {flag.removesuffix(_FAILED)} of its episodes failed." for flag in flags if flag.endswith(_FAILED)), ""
    )
    is_claimed = str(top["sampler"]).startswith(CLAIMED_SAMPLER)
    balanced = next((f" {top['brief']} {flag}." for flag in flags if flag.startswith(BALANCED_FLAG)), "")
    return failed + balanced + (f" {CLAIMED_FLAG[0].upper()}{CLAIMED_FLAG[1:]}." if is_claimed else "")


def _cost(top: Mapping[Any, Any], equals: Sequence[Mapping[Any, Any]]) -> str:
    """How long an episode takes, and which of the methods that cannot be told from the best is the fastest."""
    speed = top["episodes_per_second"]
    if not speed > 0:
        return ""
    told = f"{top['brief'] if equals else 'It'} takes {_time(1 / speed)} per episode"
    fastest = max(equals, key=lambda row: _or_zero(row["episodes_per_second"]), default=top)
    times = _or_zero(fastest["episodes_per_second"]) / speed
    if times < 2:
        return f"{told}."
    return f"{told}; {fastest['brief']} is {times:,.0f} times as fast."


def _or_zero(speed: float) -> float:
    return speed if speed == speed else 0.0


def _time(seconds: float) -> str:
    for size, unit in ((1.0, "s"), (1e-3, "ms")):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 1e-6:.3g} µs"

"""What the results show, in sentences: the main finding, and which method is best for each task.

"Best" is only a method that every other one of its kind is shown to be worse than, in the tests of all pairs that stand
behind the letters. So it does not matter that the best was picked by its own result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import pandas as pd

from fewshot_bench.outcomes import CLAIMED_SAMPLER
from fewshot_bench.report.content import PageContent, ProtocolResults
from fewshot_bench.report.leaderboard_rows import MEASURED
from fewshot_bench.report.names import (
    BALANCED_FLAG,
    CLAIMED_FLAG,
    baseline_name,
    is_across,
    is_transductive,
    is_whole,
    row_name,
    task_names,
    without_common_prefix,
)
from fewshot_bench.report.verdicts import (
    BEST,
    CORRECTIONS,
    FOR_THESE_CLASSES,
    HIGHEST,
    NOT_TESTED,
    NOTHING_SHOWN,
    OF_THESE_TRAININGS,
    ON_THIS_SPLIT,
    UNKNOWN,
    about_data,
    headline,
    is_on_this_split,
    p_of_both,
)
from fewshot_bench.statistics import Covered, DataInterval
from fewshot_bench.units import time_text

_MOST_NAMED = 5
_FAILED = " failed"
_AMONG = {False: "among inductive methods", True: "among transductive methods"}
_WIDER: dict[Covered, str] = {
    "classes and images": "other classes and images",
    "images of these classes": "other images of these classes",
}
TestedRow = tuple[ProtocolResults, dict[Any, Any]]


@dataclass(frozen=True)
class Answer:
    """Which method of one kind is best on one protocol.

    Attributes:
        protocol: its fingerprint.
        task: what people call it.
        is_transductive: whether the methods are transductive.
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
    groups = {str(key): rows.to_dict("records") for key, rows in measured.groupby("protocol_fingerprint", sort=False)}
    tasks = task_names({key: rows[0] for key, rows in groups.items()})
    best = []
    for key, rows in groups.items():
        by_kind = [[row for row in rows if is_transductive(row) == kind] for kind in (False, True)]
        if max(map(len, by_kind)) > 1:
            _name_briefly(rows, is_marked=not all(by_kind))
            best += [_answer(key, tasks[key], same, has_both=all(by_kind)) for same in by_kind if same]
    return best


def _name_briefly(rows: Sequence[dict[Any, Any]], *, is_marked: bool) -> None:
    """Give each row the name that the sentences use: without the stages in front that all methods share.

    Args:
        rows: of one protocol; each gets a value for "brief".
        is_marked: whether a transductive method says so; not where the sentence does.
    """
    _, names = without_common_prefix([str(row["method"]) for row in rows])
    for row, name in zip(rows, names, strict=True):
        row["brief"] = row_name({**row, "method": name}) if is_marked else name


def answer_lines(best: Sequence[Answer], *, with_cost: bool = True) -> list[str]:
    """The answers as text: per protocol its name, then a sentence for each kind of method.

    Args:
        best: as `answers` returns them.
        with_cost: whether to say how long an episode takes, which differs when a study is repeated.
    """
    lines: list[str] = []
    for _, same in groupby(best, key=lambda answer: answer.protocol):
        group = list(same)
        lines.append(f"Which method for {group[0].task}?")
        lines += [f"{answer.sentence} {answer.cost}".strip() if with_cost else answer.sentence for answer in group]
    return lines


def _answer(protocol: str, task: str, rows: Sequence[Mapping[Any, Any]], *, has_both: bool) -> Answer:
    """The answer of the rows of one kind, the highest mean first."""
    top = next((row for row in rows if row["against_best"] in (BEST, HIGHEST)), rows[0])
    others = [row for row in rows if row is not top]
    words = {word: [row for row in others if row["against_best"] == word] for word in (NOTHING_SHOWN, NOT_TESTED)}
    on_split = [row for row in others if about_data(str(row["against_best"])) == f"worse{ON_THIS_SPLIT}"]
    above = [row for row in others if str(row["against_best"]).startswith("better")]
    equals = words[NOTHING_SHOWN]
    sentence = _highest(top, others, equals, on_split) + _exceptions(above, words[NOT_TESTED])
    if has_both:
        sentence = f"{_AMONG[is_transductive(top)]}, {sentence}"
    correction = CORRECTIONS[str(top["correction"])]
    is_of_these = any(str(row["against_best"]).endswith(OF_THESE_TRAININGS) for row in others)
    trainings = "; of these trainings: not all of it is shown for new ones" if is_of_these else ""
    how = f" (all pairs, {correction}, 5%{trainings})" if others else ""
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
    wider = _WIDER[_covers(top)]
    if top["against_best"] == BEST:
        if not on_split:
            return f"{name} is the best {mean}, also for {wider}"
        beyond = (
            f"for {wider}, {_not_distinguished(on_split, others)}"
            if is_known
            else f"whether it is the best for {wider} is unknown"
        )
        return f"{name} is the best{ON_THIS_SPLIT} {mean}; {beyond}"
    sentence = f"{name} has the highest mean {mean}"
    if equals:
        sentence += f", but {_not_distinguished(equals, others)}{'' if is_whole(top) else ON_THIS_SPLIT}"
    if on_split and is_known:
        also = " either" if equals and len(on_split) < len(others) else ""
        sentence += f"{';' if equals else ', but'} for {wider}, {_not_distinguished(on_split, others)}{also}"
    return sentence


def _not_distinguished(rows: Sequence[Mapping[Any, Any]], others: Sequence[Mapping[Any, Any]]) -> str:
    if len(rows) == len(others) > _MOST_NAMED:
        return f"none of the {len(rows)} others can be told from it"
    return f"{_listed(rows)} cannot be told from it"


def _exceptions(above: Sequence[Mapping[Any, Any]], untested: Sequence[Mapping[Any, Any]]) -> str:
    """The methods whose common episodes with the best show something else, or too little."""
    parts = []
    if above:
        parts.append(f"; {_listed(above)} {'is' if len(above) == 1 else 'are'} better on the episodes that both have")
    if untested:
        parts.append(f"; {_listed(untested)} {'shares' if len(untested) == 1 else 'share'} too few episodes with it")
    return "".join(parts)


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
    unit = "image" if is_whole(top) else "episode"
    time = f"{top['brief'] if equals else 'It'} takes {time_text(1 / speed)} per {unit}"
    timed = [row for row in equals if row["episodes_per_second"] >= 2 * speed]
    if not timed:
        return f"{time}."
    fastest = max(timed, key=lambda row: float(row["episodes_per_second"]))
    return f"{time}; {fastest['brief']} is {fastest['episodes_per_second'] / speed:,.0f} times as fast."


def main_finding(content: PageContent) -> str:
    """What the results show, as plain text: against the baselines where there are any, else of the two best."""
    best = [tested for protocol in content.protocols if (tested := _best_tested(protocol)) is not None]
    if best:
        return _against_baselines(best)
    paired = [protocol for protocol in content.protocols if protocol.pairs is not None]
    if paired:
        return _of_the_two_best(paired[0])
    if content.protocols:
        return _alone(content.protocols[0])
    return "No measured results; the table holds published numbers only."


def _best_tested(protocol: ProtocolResults) -> TestedRow | None:
    """The measured row with the strongest claim to be better, else the one that comes closest."""
    measured = _measured_tests(protocol).to_dict("records")
    return (protocol, max(measured, key=_preference)) if measured else None


def _preference(row: dict[Any, Any]) -> tuple[bool, bool, int, float]:
    """What makes a row the finding: that it is better, that it is of the baseline's kind, how far that is shown."""
    return _merit(row)[0] > 0, not is_across(row), *_merit(row)


def _merit(row: dict[Any, Any]) -> tuple[int, float]:
    order = (f"better{ON_THIS_SPLIT}", f"better{FOR_THESE_CLASSES}", "better")
    words = about_data(row["verdict"])
    return order.index(words) + 1 if words in order else 0, float(row["difference"])


def _against_baselines(best: list[TestedRow]) -> str:
    better = [test for test in best if _merit(test[1])[0]]
    if not better:
        return _none_better(best)
    protocol, row = max(better, key=lambda test: _preference(test[1]))
    first = f"{row_name(row)} against {baseline_name(row)} on {protocol.name}: {_headline(row)}.{_reservation(row)}"
    first += _few_classes(protocol, row["method"], row["baseline"])
    if len(best) == 1:
        return first
    on_split = sum(is_on_this_split(test[1]["verdict"]) for test in better)
    how = {0: "", len(better): ", on these classes and images"}.get(
        on_split, f", on {on_split} of them on these classes and images alone"
    )
    return f"{first} On {len(better)} of {len(best)} protocols a method is better than the baseline{how}."


def _none_better(best: list[TestedRow]) -> str:
    where = f"on {len(best)} protocols" if len(best) > 1 else f"on {best[0][0].name}"
    protocol, row = max(best, key=lambda test: float(test[1]["difference"]))
    closest = f"{row_name(row)} comes closest{f' on {protocol.name}' if len(best) > 1 else ''}: {_headline(row)}"
    names = {baseline_name(test[1]) for test in best}
    baseline = names.pop() if len(names) == 1 else "the baseline"
    verdicts = {word for test, _ in best for word in _measured_tests(test)["verdict"]}
    if verdicts and all(word.startswith("worse") for word in verdicts):
        on_split = f",{ON_THIS_SPLIT}" if any(map(is_on_this_split, verdicts)) else ""
        return f"Every other method is worse than {baseline} {where}{on_split}; {closest}.{_reservation(row)}"
    return f"No method is shown to be better than {baseline} {where}; {closest}."


def _few_classes(protocol: ProtocolResults, a: str, b: str) -> str:
    """Which few classes carry a difference, as a sentence; empty where many do, or it is unknown."""
    pair = protocol.by_class
    is_over_classes = "classes and images" in protocol.rows["beyond"].tolist()
    if pair is None or (pair.a, pair.b) != (a, b) or not (pair.classes.warning and is_over_classes):
        return ""
    return f" {pair.classes.warning}."


def _measured_tests(protocol: ProtocolResults) -> pd.DataFrame:
    return protocol.tested[protocol.tested["source"] == MEASURED]


def _reservation(row: dict[Any, Any]) -> str:
    """What a difference means that is shown on this split alone."""
    return f" The result may differ for {_WIDER[_covers(row)]}." if is_on_this_split(row["verdict"]) else ""


def _covers(row: Mapping[Any, Any]) -> Covered:
    return "images of these classes" if row["beyond"] == "images of these classes" else "classes and images"


def _headline(row: dict[Any, Any]) -> str:
    """The headline of a row of the leaderboard, with the p of both claims."""
    beyond, p = row["beyond"], row["p_beyond_corrected"]
    why = beyond.removeprefix(UNKNOWN) if beyond.startswith(UNKNOWN) else "" if beyond else "no class sizes are known"
    low, high = row["diff_data_ci95_low"], row["diff_data_ci95_high"]
    if low != low and not why:  # the row's own interval is known, from more episodes
        why = "there are too few common episodes"
    interval = DataInterval(row["difference"], low, high, p, _covers(row), why)
    task = row["diff_ci95_high"] - row["difference"]
    ends = row["diff_training_ci95_low"], row["diff_training_ci95_high"]
    training = ends if ends[0] == ends[0] else None
    whole = is_whole(row)
    sentence = headline(interval, task, row["verdict"], is_across=is_across(row), training=training, is_whole=whole)
    return f"{sentence} ({p_of_both(row['p_corrected'], p, is_whole=whole)})"


def _of_the_two_best(protocol: ProtocolResults) -> str:
    pairs = protocol.pairs
    assert pairs is not None
    first, second = pairs.methods[:2]
    kinds = {name in protocol.transductive for name in (first, second)}
    kind = "transductive" if True in kinds else "inductive"
    two = f"two best {kind} methods" if protocol.transductive and len(kinds) == 1 else "two best"
    named = f"{protocol.display_name(first)} and {protocol.display_name(second)}"
    p, interval, verdict = float(pairs.p[0, 1]), pairs.best_two, pairs.verdict(0, 1)
    if p != p or interval is None:
        return f"The {two} on {protocol.name}, {named}, share too few episodes to be tested."
    whole = protocol.is_whole
    sentence = headline(interval, pairs.best_two_task, verdict, is_across=len(kinds) > 1, is_whole=whole)
    answer = f"{sentence} ({p_of_both(p, float(pairs.p_beyond[0, 1]), is_whole=whole)})"
    if verdict == NOTHING_SHOWN:
        return f"Of the {two} on {protocol.name}, {named}, neither is shown to be better: {answer}."
    otherwise = f" The result may differ for {_WIDER[interval.covers]}." if is_on_this_split(verdict) else ""
    few = _few_classes(protocol, first, second)
    against = f"{protocol.display_name(first)} against {protocol.display_name(second)}"
    return f"The {two} on {protocol.name}, {against}: {answer}.{otherwise}{few}"


def _alone(protocol: ProtocolResults) -> str:
    row = protocol.measured.to_dict("records")[0]
    spread = f" ± {row['ci95']:.2f}" if row["ci95"] == row["ci95"] else ""
    reached = f"{row_name(row)} reaches {row['mean']:.2f}{spread} % on {protocol.name}"
    return f"{reached}; there is no other method to test it against."

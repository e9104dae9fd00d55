"""How many predictions may differ from those stored, and by what."""

from __future__ import annotations

_NOISE_ELSEWHERE = 0.02
"""Share of the queries that a tie may turn on other hardware or versions, where training rounds differently."""


def explanation(differ: int, total: int, *, is_same_machine: bool) -> tuple[bool, str]:
    """Whether ties explain that a method run again says other things, and that in words.

    Args:
        differ: predictions that are others than those stored; at least one.
        total: predictions that were compared.
        is_same_machine: whether the outcomes were made by the same versions on the same kind of machine.
    """
    if is_same_machine:
        return False, "by the same versions on the same kind of machine"
    if differ <= _NOISE_ELSEWHERE * total:
        return True, "ties, by other versions or on another kind of machine"
    return False, f"other versions or machines explain {_NOISE_ELSEWHERE:.0%} at most"

"""The columns that say which tasks a row is about."""

from __future__ import annotations

from typing import Any

from fewshot_bench.outcomes import ProtocolCard


def task_columns(protocol: ProtocolCard) -> dict[str, Any]:
    """What stands in the leaderboard and in records: dataset, split, size of the tasks, sampler, seed."""
    settings = ", ".join(f"{name}={value}" for name, value in sorted(protocol.sampler_settings.items()))
    return {
        "dataset": protocol.dataset,
        "split": protocol.split,
        "way": protocol.way,
        "shot": protocol.shot,
        "queries": protocol.query,
        "sampler": f"{protocol.sampler} ({settings})" if settings else protocol.sampler,
        "seed": protocol.seed,
    }

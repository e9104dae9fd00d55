"""What happened: one row per episode, kept in parts that never change."""

from fewshot_bench.outcomes.cell import (
    CLAIMED_SAMPLER,
    STANDARD_SAMPLER,
    TRANSDUCTIVE,
    Cell,
    MethodCard,
    ProtocolCard,
    marked,
)
from fewshot_bench.outcomes.claimed import claimed_frame, claimed_method, claimed_protocol
from fewshot_bench.outcomes.failures import Failure
from fewshot_bench.outcomes.frame import Outcomes, episode_frame
from fewshot_bench.outcomes.store import OutcomeStore

__all__ = [
    "CLAIMED_SAMPLER",
    "STANDARD_SAMPLER",
    "TRANSDUCTIVE",
    "Cell",
    "Failure",
    "MethodCard",
    "OutcomeStore",
    "Outcomes",
    "ProtocolCard",
    "claimed_frame",
    "claimed_method",
    "claimed_protocol",
    "episode_frame",
    "marked",
]

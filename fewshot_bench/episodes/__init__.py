"""Which images form a task: protocols, samplers, lock files."""

from fewshot_bench.episodes.episode import Episode
from fewshot_bench.episodes.protocol import SAMPLER_VERSION, SAMPLERS, Protocol, ProtocolFields
from fewshot_bench.episodes.recorded import RecordedEpisodes, recorded_episodes
from fewshot_bench.episodes.sampler import (
    Episodes,
    WholeEpisodes,
    draw,
    episode_classes,
    resolved_protocol,
    sample_by_shape,
    sample_episodes,
    whole_protocol,
)
from fewshot_bench.episodes.samplers import sample_indices

__all__ = [
    "SAMPLERS",
    "SAMPLER_VERSION",
    "Episode",
    "Episodes",
    "Protocol",
    "ProtocolFields",
    "RecordedEpisodes",
    "WholeEpisodes",
    "draw",
    "episode_classes",
    "recorded_episodes",
    "resolved_protocol",
    "sample_by_shape",
    "sample_episodes",
    "sample_indices",
    "whole_protocol",
]

"""Which images form a task: the sampler, protocols, lock files."""

from fewshot_bench.episodes.protocol import SAMPLER_VERSION, Protocol
from fewshot_bench.episodes.sampler import Episodes, sample_episodes, sample_indices

__all__ = ["SAMPLER_VERSION", "Episodes", "Protocol", "sample_episodes", "sample_indices"]

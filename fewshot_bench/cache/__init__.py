"""What can be made again, kept on the disk: made once among all processes, listed, and bounded."""

from fewshot_bench.cache.clear import Cleared, clear_cache, to_be_removed
from fewshot_bench.cache.entries import BASE_STAGES, EMBEDDINGS, Entry, cache_entries
from fewshot_bench.cache.made_once import kept, made_once
from fewshot_bench.cache.units import parse_age, parse_bytes

__all__ = [
    "BASE_STAGES",
    "EMBEDDINGS",
    "Cleared",
    "Entry",
    "cache_entries",
    "clear_cache",
    "kept",
    "made_once",
    "parse_age",
    "parse_bytes",
    "to_be_removed",
]

"""What can be made again, kept on the disk: made once among all processes, listed, and bounded."""

from fewshot_bench.cache.build_once import kept, made_once
from fewshot_bench.cache.entries import (
    BASE_STAGES,
    EMBEDDINGS,
    Cleared,
    Entry,
    cache_entries,
    clear_cache,
    parse_age,
    parse_bytes,
    to_be_removed,
)

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

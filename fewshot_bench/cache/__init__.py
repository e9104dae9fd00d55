"""What can be computed again, stored on disk: built once among all processes, listed, and limited in size."""

from fewshot_bench.cache.entries import (
    BASE_STAGES,
    COMPILED,
    EMBEDDINGS,
    Cleared,
    Entry,
    build_once,
    cache_entries,
    clear_cache,
    parse_age,
    parse_bytes,
    read_entry,
    to_be_removed,
)
from fewshot_bench.cache.trials import Timer, Trial, choose, keep_text, kept_text, no_trials

__all__ = [
    "BASE_STAGES",
    "COMPILED",
    "EMBEDDINGS",
    "Cleared",
    "Entry",
    "Timer",
    "Trial",
    "build_once",
    "cache_entries",
    "choose",
    "clear_cache",
    "keep_text",
    "kept_text",
    "no_trials",
    "parse_age",
    "parse_bytes",
    "read_entry",
    "to_be_removed",
]

"""What can be computed again, stored on disk: built once among all processes, listed, and limited in size."""

from fewshot_bench.cache.entries import (
    BASE_STAGES,
    COMPILED,
    EMBEDDINGS,
    PROBES,
    Cleared,
    Entry,
    build_once,
    cache_entries,
    clear_cache,
    parse_age,
    parse_bytes,
    read_entry,
    to_be_removed,
    unused,
)

__all__ = [
    "BASE_STAGES",
    "COMPILED",
    "EMBEDDINGS",
    "PROBES",
    "Cleared",
    "Entry",
    "build_once",
    "cache_entries",
    "clear_cache",
    "parse_age",
    "parse_bytes",
    "read_entry",
    "to_be_removed",
    "unused",
]

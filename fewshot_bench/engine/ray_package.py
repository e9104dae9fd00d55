"""Ray itself, which only the files of its engine import, or one sentence that says how to get it."""

from __future__ import annotations

import os

from fewshot_bench.errors import StudyError

os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or its news of dead workers would go to standard output

try:
    import ray
except ImportError as error:
    raise StudyError("--engine ray needs the package ray. Run: pip install 'fewshot-bench[ray]'") from error

__all__ = ["ray"]

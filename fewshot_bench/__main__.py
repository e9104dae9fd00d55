"""The command `fewshot-bench`, also as `python -m fewshot_bench`."""

from __future__ import annotations

import os
import sys

_IS_SAFE = getattr(sys.flags, "safe_path", False)  # since Python 3.11
if __name__ == "__main__" and not _IS_SAFE and sys.path[0] != os.path.dirname(os.path.dirname(__file__)):
    # `python -m` looks for modules in the current folder first, which may be a stranger's; a checkout is not.
    del sys.path[0]

import signal  # noqa: E402  # a module of that name in the current folder must not be taken


def main() -> None:
    """Import the command line and run it; Ctrl-C during the import ends as quietly as later."""
    try:
        from fewshot_bench.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    run()


if __name__ == "__main__":
    main()

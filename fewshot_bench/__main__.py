"""The command `fewshot-bench`, also as `python -m fewshot_bench`."""

from __future__ import annotations

import signal
import sys


def main() -> None:
    """Import the command line and run it; Ctrl-C during the import ends as quietly as later."""
    try:
        from fewshot_bench.cli.main import main as run
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)
    run()


if __name__ == "__main__":
    main()

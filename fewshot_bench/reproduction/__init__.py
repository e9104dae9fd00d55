"""A stored result once more, from its own record: outcome by outcome."""

from typing import TYPE_CHECKING

from fewshot_bench.lazy import lazily

if TYPE_CHECKING:
    from fewshot_bench.reproduction.meant import cells_meant as cells_meant
    from fewshot_bench.reproduction.outcome import OtherOutcome as OtherOutcome
    from fewshot_bench.reproduction.outcome import Reproduction as Reproduction
    from fewshot_bench.reproduction.reproduce import ReproductionOptions as ReproductionOptions
    from fewshot_bench.reproduction.reproduce import everything_anew as everything_anew
    from fewshot_bench.reproduction.reproduce import reproduce_cell as reproduce_cell
    from fewshot_bench.reproduction.terminal import print_reproduction as print_reproduction

# Imported on first use: a result that is not there must not wait for torch.
_HOMES = {
    "OtherOutcome": "outcome",
    "Reproduction": "outcome",
    "ReproductionOptions": "reproduce",
    "cells_meant": "meant",
    "everything_anew": "reproduce",
    "print_reproduction": "terminal",
    "reproduce_cell": "reproduce",
}
__all__ = sorted(_HOMES)

__getattr__ = lazily(__name__, _HOMES)

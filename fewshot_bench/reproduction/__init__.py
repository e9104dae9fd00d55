"""A stored result once more, from its own record: outcome by outcome."""

from fewshot_bench.reproduction.meant import cells_meant
from fewshot_bench.reproduction.outcome import OtherOutcome, Reproduction
from fewshot_bench.reproduction.reproduce import ReproductionOptions, everything_anew, reproduce_cell
from fewshot_bench.reproduction.terminal import print_reproduction

__all__ = [
    "OtherOutcome",
    "Reproduction",
    "ReproductionOptions",
    "cells_meant",
    "everything_anew",
    "print_reproduction",
    "reproduce_cell",
]

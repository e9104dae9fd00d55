"""Simulate what looking at episodes again and again does to the interval and to p.

    python benchmarks/looks.py
    python benchmarks/looks.py --studies 10000

Every simulated study looks after each hundred episodes. Accuracies are those of 5-way episodes with 15 queries per
class whose classes have chances of their own (intraclass correlation 0.2), mean 60%; two methods share the chances, and
neither is better. Three rules to stop: at a fixed number of episodes, at a width of the interval that was fixed before
(`look`, the rule of `run --until-ci`), and as soon as p < 0.05.
"""

from __future__ import annotations

import argparse
import math
import platform
from collections.abc import Callable

import numpy as np
import scipy
from numpy.typing import NDArray

from fewshot_bench.statistics import look, mean_interval, paired_t_test

WAY, QUERY, MEAN, LIKENESS = 5, 15, 0.6, 0.2
CHUNK, MOST = 100, 3000
Accuracies = NDArray[np.float64]
Rule = Callable[[Accuracies, Accuracies], bool]


def main() -> None:
    """Parse the arguments, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--studies", type=int, default=2000)
    studies = parser.parse_args().studies
    rules: dict[str, Rule] = {
        f"fixed, {MOST:,} episodes": lambda a, b: False,
        "until ±0.5 points": lambda a, b: look(a, 0.005).enough,
        "until ±1 point": lambda a, b: look(a, 0.01).enough,
        "until p < 0.05": lambda a, b: paired_t_test(a, b).p < 0.05,
    }
    print(
        f"{studies:,} studies; scipy {scipy.__version__}, numpy {np.__version__}, Python {platform.python_version()}\n"
    )
    print(f"A look after each {CHUNK} episodes, {MOST:,} at most; share of the studies ± standard error.\n")
    print("| stops | episodes, mean | the 95% interval covers | p < 0.05 without a difference |")
    print("| --- | ---: | ---: | ---: |")
    for name, rule in rules.items():
        generator = np.random.default_rng(2024)
        ends = [study(generator, rule) for _ in range(studies)]
        episodes, covered, found = np.mean(ends, axis=0)
        print(f"| {name} | {episodes:,.0f} | {percent(covered, studies)} | {percent(found, studies)} |", flush=True)


def study(generator: np.random.Generator, stops: Rule) -> tuple[int, bool, bool]:
    """One study: its episodes, whether its interval holds the truth, whether it calls equal methods different."""
    a, b = two_equal_methods(generator)
    count = next((n for n in range(CHUNK, MOST, CHUNK) if stops(a[:n], b[:n])), MOST)
    interval = mean_interval(a[:count])
    return count, interval.low <= MEAN <= interval.high, paired_t_test(a[:count], b[:count]).p < 0.05


def two_equal_methods(generator: np.random.Generator) -> tuple[Accuracies, Accuracies]:
    """Accuracies of two methods on the same episodes; their classes' chances are Beta distributed."""
    size = 1 / LIKENESS - 1
    chances = generator.beta(MEAN * size, (1 - MEAN) * size, (MOST, WAY))
    first, second = (generator.binomial(QUERY, chances).mean(axis=1) / QUERY for _ in range(2))
    return first, second


def percent(share: float, studies: int) -> str:
    """A share of the studies with its standard error."""
    return f"{100 * share:.1f}% ± {100 * math.sqrt(share * (1 - share) / studies):.1f}"


if __name__ == "__main__":
    main()

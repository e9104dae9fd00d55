"""Pure functions from arrays of outcomes to numbers: intervals, tests of two methods and of many, power."""

from fewshot_bench.statistics.arrays import accuracies_as_fractions
from fewshot_bench.statistics.comparison import PairedComparison, compare_pairs, wilcoxon_p
from fewshot_bench.statistics.corrections import Correction, corrected
from fewshot_bench.statistics.data_interval import (
    Covered,
    DataInterval,
    DataIntervals,
    Overlap,
    class_overlap,
    data_interval,
    data_intervals,
    data_p_of_all_pairs,
    image_overlap,
)
from fewshot_bench.statistics.datasets import FriedmanTest, critical_difference, friedman, paired_over_datasets
from fewshot_bench.statistics.intervals import (
    Interval,
    MedianInterval,
    Summary,
    episode_median,
    mean_interval,
    median_of_runs,
    summarise,
)
from fewshot_bench.statistics.letters import compact_letters, letter_sets, read_letters
from fewshot_bench.statistics.looks import Look, look
from fewshot_bench.statistics.many import PairMatrix, all_pairs, pairs_with_gaps
from fewshot_bench.statistics.paired import PairedTest, paired_t_test
from fewshot_bench.statistics.power import (
    BeyondSplit,
    Pilot,
    beyond_split,
    detectable_difference,
    episodes_needed,
    paired_episodes_needed,
    pilot,
    sd_of_difference,
    unpaired_episodes_needed,
)
from fewshot_bench.statistics.sign_flip import sign_flip_p
from fewshot_bench.statistics.variance_parts import VarianceParts, variance_parts
from fewshot_bench.statistics.welch import (
    WelchTest,
    implied_sd,
    implied_standard_error,
    is_plausible_sd,
    plausible_sd_range,
    welch_from_standard_errors,
    welch_from_summaries,
)

__all__ = [
    "BeyondSplit",
    "Correction",
    "Covered",
    "DataInterval",
    "DataIntervals",
    "FriedmanTest",
    "Interval",
    "Look",
    "MedianInterval",
    "Overlap",
    "PairMatrix",
    "PairedComparison",
    "PairedTest",
    "Pilot",
    "Summary",
    "VarianceParts",
    "WelchTest",
    "accuracies_as_fractions",
    "all_pairs",
    "beyond_split",
    "class_overlap",
    "compact_letters",
    "compare_pairs",
    "corrected",
    "critical_difference",
    "data_interval",
    "data_intervals",
    "data_p_of_all_pairs",
    "detectable_difference",
    "episode_median",
    "episodes_needed",
    "friedman",
    "image_overlap",
    "implied_sd",
    "implied_standard_error",
    "is_plausible_sd",
    "letter_sets",
    "look",
    "mean_interval",
    "median_of_runs",
    "paired_episodes_needed",
    "paired_over_datasets",
    "paired_t_test",
    "pairs_with_gaps",
    "pilot",
    "plausible_sd_range",
    "read_letters",
    "sd_of_difference",
    "sign_flip_p",
    "summarise",
    "unpaired_episodes_needed",
    "variance_parts",
    "welch_from_standard_errors",
    "welch_from_summaries",
    "wilcoxon_p",
]

"""Pure functions from arrays of outcomes to numbers: intervals, tests of two methods and of many, power.

>>> from fewshot_bench import statistics
>>> interval = statistics.mean_interval([0.70, 0.74, 0.72, 0.76])
>>> f"{interval.mean:.2f} ± {interval.half_width:.3f}"
'0.73 ± 0.041'
"""

from fewshot_bench.statistics.classification import Calibration, McNemarTest, calibration, class_recall, mcnemar
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
    separate_images,
)
from fewshot_bench.statistics.datasets import FriedmanTest, critical_difference, friedman, paired_over_datasets
from fewshot_bench.statistics.intervals import (
    Interval,
    Look,
    MedianInterval,
    Summary,
    accuracies_as_fractions,
    episode_median,
    look,
    mean_interval,
    median_of_runs,
    summarise,
)
from fewshot_bench.statistics.jackknife import jackknife_interval
from fewshot_bench.statistics.multiple import (
    Correction,
    PairMatrix,
    all_pairs,
    compact_letters,
    corrected,
    letter_sets,
    pairs_with_gaps,
    read_letters,
)
from fewshot_bench.statistics.paired import PairedComparison, PairedTest, compare_pairs, paired_t_test, wilcoxon_p
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
from fewshot_bench.statistics.rank_correlation import RankCorrelation, rank_correlation
from fewshot_bench.statistics.sign_flip import sign_flip_p
from fewshot_bench.statistics.trainings import (
    TrainingDifference,
    TrainingSpread,
    training_difference,
    training_p_of_all_pairs,
    training_spread,
)
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
    "Calibration",
    "Correction",
    "Covered",
    "DataInterval",
    "DataIntervals",
    "FriedmanTest",
    "Interval",
    "Look",
    "McNemarTest",
    "MedianInterval",
    "Overlap",
    "PairMatrix",
    "PairedComparison",
    "PairedTest",
    "Pilot",
    "RankCorrelation",
    "Summary",
    "TrainingDifference",
    "TrainingSpread",
    "VarianceParts",
    "WelchTest",
    "accuracies_as_fractions",
    "all_pairs",
    "beyond_split",
    "calibration",
    "class_overlap",
    "class_recall",
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
    "jackknife_interval",
    "letter_sets",
    "look",
    "mcnemar",
    "mean_interval",
    "median_of_runs",
    "paired_episodes_needed",
    "paired_over_datasets",
    "paired_t_test",
    "pairs_with_gaps",
    "pilot",
    "plausible_sd_range",
    "rank_correlation",
    "read_letters",
    "sd_of_difference",
    "separate_images",
    "sign_flip_p",
    "summarise",
    "training_difference",
    "training_p_of_all_pairs",
    "training_spread",
    "unpaired_episodes_needed",
    "variance_parts",
    "welch_from_standard_errors",
    "welch_from_summaries",
    "wilcoxon_p",
]

"""Whether a published interval can be one of its protocol."""

from __future__ import annotations

from fewshot_bench.report.published import PublishedResult
from fewshot_bench.statistics.welch import implied_sd, is_plausible_sd, plausible_sd_range


def interval_flag(result: PublishedResult) -> str:
    """What is odd about a published interval, in words; empty where it may be right, or where too little is said.

    An interval and a number of episodes imply a standard deviation over episodes. ±0.80 at 3,000 episodes implies 22
    points, which no method has on episodes of 5 classes with 15 queries each; ±0.36, about 10, is usual. A likely
    reason for too much is an interval over fewer episodes than the protocol names. Without a number of episodes any
    interval may be right but one of no width.

    Args:
        result: one row of a published table.
    """
    if result.half_width == 0:
        return "±0 is no interval over episodes; the row is not tested"
    if result.half_width is None or result.episodes is None or result.way is None or result.queries is None:
        return ""
    sd = implied_sd(result.half_width / 100, result.episodes)
    rounding = implied_sd(result.rounding / 100, result.episodes)
    accuracy = result.accuracy / 100
    if is_plausible_sd(sd, accuracy, way=result.way, query=result.queries, rounding=rounding):
        return ""
    low, high = plausible_sd_range(accuracy, way=result.way, query=result.queries)
    return (
        f"±{result.half_width:.2f} over {result.episodes:,} episodes implies a standard deviation of {100 * sd:.1f} "
        f"points; {100 * low:.1f} to {100 * high:.1f} is plausible"
    )

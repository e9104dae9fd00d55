"""What each column of the leaderboard says: its header, its definition, how its numbers are written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from fewshot_bench.report.wording import correction_words, p_header
from fewshot_bench.statistics import Correction

Kind = Literal["text", "digest", "count", "percent", "points", "p", "number", "bytes"]


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: in the leaderboard.
        header: what stands above it.
        definition: one sentence.
        kind: how its values are written.
        is_shown: at first; the others are one click away.
        is_filter: a list of its values to choose from stands in its header.
        tells_apart: rows that differ in it are about something else, so it is shown wherever they do.
    """

    name: str
    header: str
    definition: str
    kind: Kind = "text"
    is_shown: bool = True
    is_filter: bool = False
    tells_apart: bool = False


COLUMNS = (
    Column("method", "Method", "Backbone, how it was trained, and what is done with each support set."),
    Column("dataset", "Dataset", "Where the images come from.", is_filter=True, tells_apart=True),
    Column("split", "Split", "The classes that the episodes come from.", is_shown=False, tells_apart=True),
    Column("way", "Way", "Classes of an episode.", "count", is_shown=False, tells_apart=True),
    Column("shot", "Shot", "Labelled images per class of an episode.", "count", is_filter=True, tells_apart=True),
    Column(
        "queries",
        "Queries",
        "Query images per class; 0 where claimed episodes do not say.",
        "count",
        is_shown=False,
        tells_apart=True,
    ),
    Column("sampler", "Sampler", "Which guarantee the episodes have.", is_shown=False, tells_apart=True),
    Column("seed", "Seed", "Of the episodes.", "count", is_shown=False, tells_apart=True),
    Column(
        "protocol_fingerprint",
        "Protocol",
        "Start of the fingerprint of images and episodes, where nothing else tells protocols apart.",
        "digest",
        is_shown=False,
        tells_apart=True,
    ),
    Column(
        "median",
        "Median %",
        "Each run of episodes has a mean accuracy; this is the median of those over the runs, the headline of the "
        "literature.",
        "percent",
    ),
    Column(
        "median_ci95",
        "± median",
        "Half-width of the 95% t interval over the episodes of the median run.",
        "percent",
        is_shown=False,
    ),
    Column("mean", "Mean %", "Mean accuracy over all episodes of all runs.", "percent"),
    Column(
        "ci95",
        "± tasks",
        "Half-width of the 95% t interval of that mean over the episodes: what another draw of episodes from the same "
        "images would change.",
        "percent",
    ),
    Column(
        "data_ci95",
        "± data",
        "Half-width of the 95% interval that also covers which classes and images happened to be in the split.",
        "percent",
    ),
    Column("episode_median", "Median episode %", "Half of the episodes are below this.", "percent", is_shown=False),
    Column(
        "episode_median_low",
        "Median episode, low",
        "Lower end of the exact 95% order-statistic interval of the median over episodes.",
        "percent",
        is_shown=False,
    ),
    Column(
        "episode_median_high",
        "Median episode, high",
        "Upper end of the exact 95% order-statistic interval of the median over episodes.",
        "percent",
        is_shown=False,
    ),
    Column(
        "group",
        "Group",
        "Methods of a protocol that share a letter are not shown to differ beyond this split (see Beyond): tests of "
        "all pairs on the same episodes, {correction}, 5%.",
    ),
    Column(
        "group_split",
        "Group, split",
        "Methods of a protocol that share a letter are not shown to differ on this split, its classes and images: "
        "paired t-tests of all pairs over episodes, {correction}, 5%.",
        is_shown=False,
    ),
    Column(
        "against_best",
        "Against the best",
        "What the tests of all pairs, {correction}, show at 5% against the method with the highest mean of its kind, "
        "inductive or transductive. Best: each other one of its kind is shown to be worse, on this split at least.",
    ),
    Column(
        "verdict",
        "Verdict",
        "What the corrected tests show at 5%. Better: with other classes and images too. Better for these classes: "
        "with other images of them. Better on this split: with these classes and images. The same for worse.",
    ),
    Column(
        "difference",
        "Difference",
        "Mean of method minus baseline, in percentage points, over the episodes that both have seen.",
        "points",
    ),
    Column("diff_ci95_low", "low", "Lower end of the 95% task interval of the difference.", "points"),
    Column("diff_ci95_high", "high", "Upper end of the 95% task interval of the difference.", "points"),
    Column("diff_data_ci95_low", "low, data", "Lower end of the 95% data interval of the difference.", "points"),
    Column("diff_data_ci95_high", "high, data", "Upper end of the 95% data interval of the difference.", "points"),
    Column(
        "p",
        "p",
        "Two-sided p of the test against the baseline over episodes, for this row alone: whether there is a difference "
        "on this split.",
        "p",
        is_shown=False,
    ),
    Column("p_corrected", "p", "The same p, {correction} for the number of methods on the protocol.", "p"),
    Column(
        "p_beyond",
        "p beyond",
        "Two-sided p of the same difference over classes and images as well, for this row alone: whether there is a "
        "difference beyond this split.",
        "p",
        is_shown=False,
    ),
    Column(
        "p_beyond_corrected",
        "p beyond",
        "The same p beyond this split, {correction} for the number of methods on the protocol.",
        "p",
    ),
    Column(
        "beyond",
        "Beyond",
        "What the data intervals and the tests beyond this split cover beside the episodes: classes and images, or "
        "images of these classes.",
        is_shown=False,
        tells_apart=True,
    ),
    Column(
        "test",
        "Test",
        "Paired t: on the same episodes. Welch: from two summaries, because a published row has no outcomes.",
        is_shown=False,
    ),
    Column(
        "effect_size",
        "d_z",
        "Cohen's d_z: the mean of the paired differences divided by their standard deviation.",
        "number",
        is_shown=False,
    ),
    Column("wins", "Wins", "Episodes on which the method is better than the baseline.", "count", is_shown=False),
    Column("ties", "Ties", "Episodes on which both have the same accuracy.", "count", is_shown=False),
    Column("losses", "Losses", "Episodes on which the method is worse than the baseline.", "count", is_shown=False),
    Column("baseline", "Baseline", "What the method is tested against.", is_shown=False, tells_apart=True),
    Column("source", "Source", "Measured here, or the paper that published the number.", is_filter=True),
    Column("backbone", "Backbone", "The network that turns an image into an embedding.", is_filter=True),
    Column("adaptation", "Adaptation", "What is done with the support set of an episode.", is_filter=True),
    Column("flags", "Flags", "What a reader should know before believing the row."),
    Column(
        "is_transductive",
        "Transductive",
        "Whether the method sees all queries of an episode at once, so that they inform each other's predictions.",
        is_shown=False,
        is_filter=True,
        tells_apart=True,
    ),
    Column("episodes_per_second", "Episodes/s", "Speed of the adaptation; differs when a study is repeated.", "number"),
    Column("peak_bytes", "Peak GiB", "Most memory that the run took.", "bytes", is_shown=False),
    Column("episodes", "Episodes", "Stored episodes of the shortest run.", "count", is_shown=False),
    Column("runs", "Runs", "Seeded sequences of episodes.", "count", is_shown=False),
    Column("paired_episodes", "Paired", "Episodes that both the method and its baseline have seen.", "count", False),
)


def columns_under(correction: Correction) -> list[Column]:
    """The columns in the words of a correction; without one there is no corrected p."""
    kept = [column for column in COLUMNS if not column.name.endswith("_corrected") or correction != "none"]
    return [
        replace(
            column,
            header=p_header(correction, column.header) if column.name.endswith("_corrected") else column.header,
            definition=column.definition.replace("{correction}", correction_words(correction)),
        )
        for column in kept
    ]

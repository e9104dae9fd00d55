"""The leaderboard of the page as a DataTable (through itables): sorted, filtered and searched in the browser."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import pandas as pd
from markupsafe import Markup, escape

from fewshot_bench.limits import WHOLE_SAMPLER
from fewshot_bench.outcomes import marked
from fewshot_bench.report.content import correction_of
from fewshot_bench.report.labels import HEADING, IS_OWN
from fewshot_bench.report.leaderboard_rows import MEASURED, ONE_TRAINING
from fewshot_bench.report.names import BASELINE_KINDS, is_transductive
from fewshot_bench.report.page.embeddings import anchor_of
from fewshot_bench.report.verdicts import LETTER_COLUMNS, correction_words, p_header, p_text
from fewshot_bench.statistics import Correction, read_letters
from fewshot_bench.units import rate_text

TABLE_ID = "leaderboard-table"
_BEST = ("median", "mean")
_ALWAYS = ("method", "dataset", "shot", "median", "mean", "ci95", "backbone")
_IN_PLACE_OF = {"ci95": "data_ci95", "against_best": "verdict"}
_ON_A_PHONE = ("method", "mean", "verdict", "against_best")
_OF_DRAWN_EPISODES = (
    "way", "shot", "queries", "seed", "data_ci95", "diff_data_ci95_low", "diff_data_ci95_high", "p_beyond",
    "p_beyond_corrected",
)  # fmt: skip
"""Columns that say nothing, or nothing more, of a whole split."""
_STATIC_ROWS, _PAGE = 10, 25
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_PHONE = "(max-width: 40rem)"  # as in style.css
_LOADED = re.compile(r"window\._itables_\w+")
_P_TYPE = "p"
# A small p reads "< 0.001"; the table sorts by p itself, which the cell holds as well. A `render` function would do it
# too, but itables passes functions as text, and the page's policy forbids evaluating text.
_SORTED_BY_P = """(await {library}).default.type("{name}", {
  order: { pre: (cell) => Number((/data-p="([^"]+)"/.exec(cell) || [0, -1])[1]) },
});
"""
_MODULE = re.compile(r'.*<script type="module">(.*?)</script>', re.DOTALL)

Kind = Literal["text", "digest", "count", "percent", "points", "p", "number", "rate", "bytes"]


@dataclass(frozen=True)
class Column:
    """A column of the table.

    Attributes:
        name: in the leaderboard.
        header: above it.
        definition: one sentence.
        kind: how its values are written.
        is_shown: at first; the others are one click away.
        is_filter: its header offers a list of its values to choose from.
        tells_apart: rows that differ in it are about something else, so it is shown wherever they differ.
    """

    name: str
    header: str
    definition: str
    kind: Kind = "text"
    is_shown: bool = True
    is_filter: bool = False
    tells_apart: bool = False


_hidden = partial(Column, is_shown=False)
# fmt: off
COLUMNS = (
    Column("method", "Method", "Backbone, how it was trained, and what is done with each support set."),
    Column("dataset", "Dataset", "Where the images come from.", is_filter=True, tells_apart=True),
    _hidden("split", "Split", "The classes that the episodes come from.", tells_apart=True),
    _hidden("way", "Way", "Classes of an episode.", "count", tells_apart=True),
    Column("shot", "Shot", "Labelled images per class of an episode.", "count", is_filter=True, tells_apart=True),
    _hidden("queries", "Queries", kind="count", tells_apart=True, definition=
        "Query images per class; 0 where claimed episodes do not say."),
    _hidden("sampler", "Sampler", "Which guarantee the episodes have.", tells_apart=True),
    _hidden("seed", "Seed", "Seed of the episodes.", "count", tells_apart=True),
    _hidden("protocol_fingerprint", "Protocol", kind="digest", tells_apart=True, definition=
        "Start of the fingerprint of images and episodes, where nothing else tells protocols apart."),
    Column("mean", "Mean %", "Mean accuracy over all episodes of all runs.", "percent"),
    Column("data_ci95", "± data", kind="percent", definition=
        "Half-width of the 95% interval that also covers which classes and images happened to be in the split."),
    Column("rank", "Rank", kind="count", definition=
        "Place by the mean among the measured methods of the same protocol and kind, inductive or transductive. "
        "Methods of one group (see Group) are not shown to differ."),
    Column("difference", "Difference", kind="points", definition=
        "Mean of method minus baseline, in percentage points, over the episodes that both have seen."),
    Column("verdict", "Verdict", definition=
        "What the corrected tests show at 5%. Better: with other classes and images too. Better for these classes: "
        "with other images of them. Better on this split: with these classes and images. The same for worse. Of these "
        "trainings: not shown for new trainings of methods that have several."),
    _hidden("against_best", "Against the best", definition=
        "What the tests of all pairs, {correction}, show at 5% against the method with the highest mean of its kind, "
        "inductive or transductive. Best: each other one of its kind is shown to be worse, on this split at least."),
    _hidden("group", "Group", definition=
        "Methods of a protocol that share a letter are not shown to differ beyond this split (see Beyond): tests of "
        "all pairs on the same episodes, {correction}, 5%. No letter claims anything about new trainings."),
    _hidden("median", "Median %", kind="percent", definition=
        "Each run of episodes has a mean accuracy; this is the median of those over the runs, the headline of the "
        "literature."),
    _hidden("median_ci95", "± median", kind="percent", definition=
        "Half-width of the 95% t interval over the episodes of the median run."),
    _hidden("ci95", "± tasks", kind="percent", definition=
        "Half-width of the 95% t interval of that mean over the episodes: what another draw of episodes from the same "
        "images would change. On a whole split, over its test images: what other images of the same classes would "
        "change."),
    _hidden("episode_median", "Median episode %", "Half of the episodes are below this.", "percent"),
    _hidden("episode_median_low", "Median episode, low", kind="percent", definition=
        "Lower end of the exact 95% order-statistic interval of the median over episodes."),
    _hidden("episode_median_high", "Median episode, high", kind="percent", definition=
        "Upper end of the exact 95% order-statistic interval of the median over episodes."),
    _hidden("class_recall", "Recall %", kind="percent", definition=
        "On a whole split: the share of a class's images that are classified correctly, averaged over the classes."),
    _hidden("calibration_error", "ECE %", kind="percent", definition=
        "On a whole split: expected calibration error, the mean distance of confidence and accuracy over 15 bins of "
        "equal width; averaged over trainings."),
    _hidden("group_split", "Group, split", definition=
        "Methods of a protocol that share a letter are not shown to differ on this split, its classes and images: "
        "paired t-tests of all pairs over episodes, {correction}, 5%. No letter claims anything about new trainings."),
    _hidden("diff_ci95_low", "low", "Lower end of the 95% task interval of the difference.", "points"),
    _hidden("diff_ci95_high", "high", "Upper end of the 95% task interval of the difference.", "points"),
    _hidden("diff_data_ci95_low", "low, data", "Lower end of the 95% data interval of the difference.", "points"),
    _hidden("diff_data_ci95_high", "high, data", "Upper end of the 95% data interval of the difference.", "points"),
    _hidden("p", "p", kind="p", definition=
        "Two-sided p of the test against the baseline over episodes, for this row alone: whether there is a "
        "difference on this split."),
    _hidden("p_corrected", "p", "The same p, {correction} for the number of methods on the protocol.", "p"),
    _hidden("p_beyond", "p beyond", kind="p", definition=
        "Two-sided p of the same difference over classes and images as well, for this row alone: whether there is a "
        "difference beyond this split."),
    _hidden("p_beyond_corrected", "p beyond", kind="p", definition=
        "The same p beyond this split, {correction} for the number of methods on the protocol."),
    _hidden("beyond", "Beyond", tells_apart=True, definition=
        "What the data intervals and the tests beyond this split cover beside the episodes: classes and images, or "
        "images of these classes."),
    _hidden("test", "Test", definition=
        "Paired t: on the same episodes. Welch: from two summaries, because a published row has no outcomes."),
    _hidden("effect_size", "d_z", kind="number", definition=
        "Cohen's d_z: the mean of the paired differences divided by their standard deviation."),
    _hidden("wins", "Wins", "Episodes on which the method is better than the baseline.", "count"),
    _hidden("ties", "Ties", "Episodes on which both have the same accuracy.", "count"),
    _hidden("losses", "Losses", "Episodes on which the method is worse than the baseline.", "count"),
    _hidden("baseline", "Baseline", "What the method is tested against.", tells_apart=True),
    _hidden("reported", "Reported %", kind="percent", definition=
        "What is published for the recipe that the method was trained with."),
    _hidden("reported_ci95", "± reported", "Half-width of the printed interval.", "percent"),
    _hidden("reported_difference", "Measured - reported", kind="points", definition=
        "Mean minus the reported accuracy, in percentage points; both are of other episodes."),
    _hidden("reported_diff_ci95_low", "low, reported", kind="points", definition=
        "Lower end of Welch's 95% interval of that difference, which covers neither another training nor other "
        "classes and images."),
    _hidden("reported_diff_ci95_high", "high, reported", "Upper end of that interval.", "points"),
    _hidden("reported_p", "p reported", "Two-sided p of Welch's test of that difference, for this row alone.", "p"),
    _hidden("reported_p_corrected", "p reported", kind="p", definition=
        "The same p, {correction} for the number of such tests on the protocol."),
    _hidden("reported_verdict", "Against reported", definition=
        "Where the mean lies against the interval that is printed for the recipe."),
    _hidden("reported_by", "Reported by", "Who measured the reported number; quoted: read elsewhere. Then, where it is "
        "printed."),
    _hidden("note", "Note", "What a reader should know of a published number."),
    _hidden("source", "Source", "Measured here, or who published the number and where.", is_filter=True),
    _hidden("backbone", "Backbone", "The network that turns an image into an embedding.", is_filter=True),
    _hidden("adaptation", "Adaptation", "What is done with the support set of an episode.", is_filter=True),
    _hidden("flags", "Flags", "What a reader should know before believing the row."),
    _hidden("is_transductive", "Transductive", is_filter=True, definition=
        "Whether the method sees all queries of an episode at once, so that they inform each other's predictions."),
    _hidden("episodes_per_second", "Episodes/s", "Speed of the adaptation; differs when a study is repeated.", "rate"),
    _hidden("peak_bytes", "Peak GiB", "Most memory that the run took.", "bytes"),
    _hidden("episodes", "Episodes", "Stored episodes of the shortest run.", "count"),
    _hidden("runs", "Runs", "Seeded sequences of episodes.", "count"),
    _hidden("trainings", "Trainings", kind="count", definition=
        "Trainings on the base split that differ in their seed only; the numbers of a method are means over them."),
    _hidden("training_sd", "SD trainings", kind="percent", definition=
        "Standard deviation over the means of the trainings, in points."),
    _hidden("training_ci95", "± trainings", kind="percent", definition=
        "Half-width of the 95% t interval over the means of the trainings: it covers a new training, on these "
        "episodes. No other interval does."),
    _hidden("diff_training_ci95_low", "low, trainings", kind="points", definition=
        "Lower end of the 95% interval of the difference over the trainings of both methods (Welch; paired where both "
        "use the same networks)."),
    _hidden("diff_training_ci95_high", "high, trainings", "Upper end of that interval over trainings.", "points"),
    _hidden("p_training", "p trainings", kind="p", definition=
        "Two-sided p of the difference over the trainings of both methods, for this row alone."),
    _hidden("p_training_corrected", "p trainings", kind="p", definition=
        "The same p over trainings, {correction} for the number of methods on the protocol."),
    _hidden("p_by_seed", "p by seed", kind="p", definition=
        "On a whole split: two-sided p of the t-test of the trainings' accuracies, paired by seed, for this row alone. "
        "It stands beside the verdict, which it does not decide."),
    _hidden("p_by_seed_corrected", "p by seed", kind="p", definition=
        "The same p by seed, {correction} for the number of methods on the protocol."),
    _hidden("training_seed", "Training seed", "Seed of the training on the base split.", "count"),
    _hidden("isotropy", "Isotropy", kind="number", definition=
        "Isotropy score of the network's embeddings of this split, as they are: 1 where all directions are alike."),
    _hidden("paired_episodes", "Paired", "Episodes that both the method and its baseline have seen.", "count"),
)
# fmt: on


_HEADINGS = _hidden(HEADING, "Section", "The heading that the author of this page puts above the row.", "p")
_MARKED = ("transductive", *BASELINE_KINDS.values())  # flags that a tag or the verdict shows


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


def number_text(value: Any, kind: Kind) -> Markup:
    """A value as the content of a table's cell, escaped; empty where there is none."""
    if value is None or value != value:
        return Markup("")
    if kind == "text":
        return escape({True: "yes", False: "no"}.get(value, value) if isinstance(value, bool) else value)
    if kind == "digest":
        return escape(value[:8])
    if kind == "count":
        return Markup(str(int(value)))
    if kind == "p":
        return Markup('<span data-p="{}">{}</span>').format(f"{value:.6g}", p_text(value))
    if kind == "number":
        return Markup(f"{value:.3g}")
    if kind == "rate":
        return Markup(rate_text(value).replace(",", ""))  # the table sorts plain numbers
    if kind == "bytes":
        return Markup(f"{value / 2**30:.2f}")
    return Markup(f"{value + 0.0:+.2f}" if kind == "points" else f"{value:.2f}")


@dataclass(frozen=True)
class LeaderboardTable:
    """The parts of the table that go into the page.

    Attributes:
        library: the script that loads DataTables and its style.
        script: the module that makes the table, with all of its data.
        columns: what is in it, in order.
        same: columns that it lacks because all rows agree, with their value.
        rows: the first rows, for where no script runs.
        page: how many rows are in sight where scripts run.
    """

    library: str
    script: str
    columns: Sequence[Column]
    same: Sequence[tuple[Column, Markup]]
    rows: Sequence[Sequence[Markup]]
    page: int


def leaderboard_table(
    frame: pd.DataFrame, protocols: Sequence[Sequence[int]], tasks: Mapping[str, str] | None = None
) -> LeaderboardTable:
    """Make the table of a whole leaderboard.

    Args:
        frame: as `gather` completes it; empty columns are dropped.
        protocols: the positions of the rows of each protocol, within which the best is looked for.
        tasks: what to call the protocols, by fingerprint.
    """
    frame = frame.assign(rank=_ranks(frame))
    whole = frame["sampler"] == WHOLE_SAMPLER
    if whole.any():  # whose episodes are images, so nothing of these was chosen
        frame = frame.assign(**{name: frame[name].mask(whole) for name in _OF_DRAWN_EPISODES})
    known = columns_under(correction_of(frame))
    columns = [column for column in known if column.name in frame and not _is_empty(frame[column.name])]
    if not (frame["trainings"] > 1).any():
        columns = [column for column in columns if not column.name.startswith("training")]
    if (frame["source"] == MEASURED).all():
        columns = [column for column in columns if column.name != "source"]
    if not _needs_fingerprints(frame, columns):
        columns = [column for column in columns if column.kind != "digest"]
    texts = {column.name: [number_text(value, column.kind) for value in frame[column.name]] for column in columns}
    if "baseline" in texts:
        texts["baseline"] = _baselines(frame)
    same = [
        column for column in columns if column.name not in _ALWAYS and len(set(texts[column.name])) == 1 < len(frame)
    ]
    columns = [_shown_if_needed(column, columns, texts) for column in columns if column not in same]
    for rows in protocols:
        _mark_best(frame, texts, rows)
    several = tasks if tasks is not None and len(tasks) > 1 else {}
    agreed_flags = any(column.name == "flags" for column in same)
    texts["method"] = [_method(row, several, with_flags=not agreed_flags) for row in frame.to_dict("records")]
    if HEADING in frame and frame[HEADING].any():
        columns.append(_HEADINGS)
        texts[HEADING] = _headings(frame)
    cells = pd.DataFrame({_header(column): texts[column.name] for column in columns}, dtype=object)
    first = [[texts[column.name][row] for column in columns] for row in range(min(_STATIC_ROWS, len(frame)))]
    agreed = [(column, texts[column.name][0]) for column in same]
    library, page = _library(), min(_PAGE, len(frame))
    loaded = _found(_LOADED, library)  # the promise of the loaded library
    sorted_by_p = _SORTED_BY_P.replace("{library}", loaded).replace("{name}", _P_TYPE)
    dark_mode = f"(await {loaded}).set_or_remove_dark_class();\n"  # follows the light or dark of the browser
    script = sorted_by_p + _script(cells, columns) + dark_mode + _on_a_phone(columns, loaded)
    return LeaderboardTable(library, script, columns, agreed, first, page)


def _ranks(frame: pd.DataFrame) -> pd.Series:
    """The place of each measured row among those of its protocol and kind, 1 for the highest mean."""
    measured = frame[frame["source"] == MEASURED]
    places = measured.groupby(["protocol_fingerprint", "is_transductive"])["mean"].rank(ascending=False, method="min")
    return places.reindex(frame.index)


def _headings(frame: pd.DataFrame) -> list[Markup]:
    """The author's heading of each row, with its place, by which the table sorts."""
    places = {heading: place for place, heading in enumerate(frame.attrs.get(HEADING, ()))}
    return [
        Markup('<span data-p="{}">{}</span>').format(places.get(heading, len(places)), heading)
        for heading in frame[HEADING]
    ]


def _on_a_phone(columns: Sequence[Column], loaded: str) -> str:
    """The part of the script that leaves a phone what fits: method, accuracy and verdict."""
    others = [place for place, column in enumerate(columns) if column.is_shown and column.name not in _ON_A_PHONE]
    hide = f'new (await {loaded}).default.Api("#{TABLE_ID}").columns({others}).visible(false)'
    return f'if (matchMedia("{_PHONE}").matches) {hide};\n'


def _baselines(frame: pd.DataFrame) -> list[Markup]:
    """The baseline of each row as people should read it."""
    rows = frame.to_dict("records")
    marks = {(row["protocol_fingerprint"], row["method"]): is_transductive(row) for row in rows}
    return [
        escape(marked(row["baseline"] or "", marks.get((row["protocol_fingerprint"], row["baseline"]), False)))
        for row in rows
    ]


def _is_empty(column: pd.Series) -> bool:
    return bool((column.isna() | (column == "")).all())


def _needs_fingerprints(frame: pd.DataFrame, columns: Sequence[Column]) -> bool:
    """Whether protocols have the same values in all other columns about their tasks."""
    names = [column.name for column in columns if column.tells_apart and column.kind != "digest"]
    measured = frame.loc[frame["source"] == MEASURED, [*names, "protocol_fingerprint"]].fillna("")
    return len(measured.drop_duplicates()) > len(measured.drop_duplicates(names))


def _shown_if_needed(column: Column, columns: Sequence[Column], texts: Mapping[str, Sequence[Markup]]) -> Column:
    """The column, shown where rows that differ in it could seem alike, or in place of one that is not there."""
    is_needed = column.tells_apart and len({text for text in texts[column.name] if text}) > 1
    lacking = _IN_PLACE_OF.get(column.name)
    stands_in = lacking is not None and all(other.name != lacking for other in columns)
    return replace(column, is_shown=column.is_shown or is_needed or stands_in)


def _mark_best(frame: pd.DataFrame, texts: dict[str, list[Markup]], rows: Sequence[int]) -> None:
    """Bold for the best measured method of each kind in a protocol; underlined what shares a letter with it."""
    is_measured = ((frame["source"] == MEASURED) & frame["mean"].notna()).tolist()
    measured = [row for row in rows if is_measured[row]]
    letters = {
        name: dict(zip(measured, read_letters([str(texts[name][row]) for row in measured]), strict=True))
        for name in LETTER_COLUMNS.values()
        if name in texts
    }
    for kind in (False, True):
        same = [row for row in measured if frame["is_transductive"].iloc[row] == kind]
        for name in (name for name in _BEST if name in texts and same):
            values = frame[name].iloc[same]
            for row in (same[place] for place in (values == values.max()).to_numpy().nonzero()[0]):
                texts[name][row] = Markup("<b>{}</b>").format(texts[name][row])
        for name in (name for name in letters if same):
            best = letters[name][same[int(frame["mean"].iloc[same].to_numpy().argmax())]]
            for row in (row for row in same if letters[name][row] & best):
                texts[name][row] = Markup("<u>{}</u>").format(texts[name][row])


def _method(row: dict[Any, Any], tasks: Mapping[str, str], *, with_flags: bool) -> Markup:
    """The name of a row's method with its marks; below it the task, for a phone, and what a reader should know."""
    name = escape(row["method"])
    if row.get(IS_OWN):
        name = Markup('<span class="own">{}</span>').format(name)
    if row["source"] not in (MEASURED, ONE_TRAINING):
        name = Markup('<i class="published">{}</i> <span class="tag">published</span>').format(name)
    if is_transductive(row):
        name = Markup('{} <span class="tag transductive">transductive</span>').format(name)
    if row["source"] == ONE_TRAINING:
        name = Markup('{} <span class="tag">one training</span>').format(name)
    if row.get("embedding_card"):
        name = Markup('{} <a class="tag" href="#{}">embeddings</a>').format(name, anchor_of(row["embedding_card"]))
    if task := tasks.get(row["protocol_fingerprint"]):
        name = Markup('{} <span class="task">{}</span>').format(name, task)
    flags = [flag for flag in (row.get("flags") or "").split("; ") if flag not in _MARKED]
    if with_flags and any(flags):
        name = Markup('{} <span class="flags">{}</span>').format(name, "; ".join(flags))
    return name


def _header(column: Column) -> Markup:
    return Markup('<span title="{}">{}</span>').format(column.definition, column.header)


def _library() -> str:
    """The script that loads DataTables, as itables writes it."""
    from itables.javascript import generate_init_offline_itables_html
    from itables.options import dt_bundle

    return _found(_SCRIPT, generate_init_offline_itables_html(dt_bundle), 1)


def _found(pattern: re.Pattern[str], text: str, group: int = 0) -> str:
    match = pattern.search(text)
    if match is None:
        raise RuntimeError("itables writes its tables in a way that this version of the report does not know.")
    return match[group]


def _script(cells: pd.DataFrame, columns: Sequence[Column]) -> str:
    from itables import to_html_datatable

    p_values = [place for place, column in enumerate(columns) if column.kind == "p"]
    headings = [place for place, column in enumerate(columns) if column is _HEADINGS]
    grouped: dict[str, Any] = (
        {"rowGroup": {"dataSrc": headings[0]}, "orderFixed": [[headings[0], "asc"]]} if headings else {}
    )
    numeric = [place for place, column in enumerate(columns) if column.kind not in ("text", "digest")]
    filters = [place for place, column in enumerate(columns) if column.is_filter]
    hidden = [place for place, column in enumerate(columns) if not column.is_shown]
    choose = {"extend": "dropdown", "content": ["searchClear", "searchList"], "icon": "search"}
    html = to_html_datatable(
        cells,
        connected=False,
        table_id=TABLE_ID,
        allow_html=True,  # each cell and header is escaped where it is made
        maxBytes=0,
        maxColumns=0,
        showIndex=False,
        display_logo_when_loading=False,
        warn_on_undocumented_option=False,  # orderFixed
        text_in_header_can_be_selected=False,
        classes="display nowrap compact",
        style="width:100%",
        pageLength=_PAGE,
        lengthMenu=[10, _PAGE, 100, 500],
        deferRender=True,
        autoWidth=False,
        order=[],
        layout={
            "topStart": {"pageLength": {}, "buttons": [{"extend": "colvis", "text": "Columns"}]},
            "topEnd": "search",
            "bottomStart": "info",
            "bottomEnd": "paging",
        },
        columnDefs=[
            {"targets": p_values, "type": _P_TYPE, "className": "dt-right"},
            {"targets": numeric, "type": "html-num", "className": "dt-right"},
            {"targets": "_all", "type": "html"},  # said, not guessed from all rows; the first definition wins
            {"targets": hidden, "visible": False},
            {"targets": filters, "columnControl": [choose]},
        ],
        **grouped,
    )
    return _found(_MODULE, html, 1)

"""The leaderboard as a DataTable (through itables): sorted, filtered and searched in the browser."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
from markupsafe import Markup, escape

from fewshot_bench.outcomes import marked
from fewshot_bench.report.page.content import correction_of
from fewshot_bench.report.page.definitions import Column, columns_under
from fewshot_bench.report.page.numbers import is_missing, number_text
from fewshot_bench.report.summary import MEASURED
from fewshot_bench.report.verdicts import LETTER_COLUMNS
from fewshot_bench.report.wording import is_transductive
from fewshot_bench.statistics import read_letters

TABLE_ID = "leaderboard-table"
_BEST = ("median", "mean")
_ALWAYS = ("method", "dataset", "shot", "median", "mean", "ci95", "backbone")
_STATIC_ROWS, _PAGE = 10, 25
_SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)
_LOADED = re.compile(r"window\._itables_\w+")
_P_TYPE = "p"
# What people read of a small p is "< 0.001"; the table sorts by p itself, which the cell holds as well. A `render`
# function would do it too, but itables hands functions over as text, and the page's policy forbids to evaluate text.
_SORTED_BY_P = """(await {library}).default.type("{name}", {
  order: { pre: (cell) => Number((/data-p="([^"]+)"/.exec(cell) || [0, -1])[1]) },
});
"""
_MODULE = re.compile(r'.*<script type="module">(.*?)</script>', re.DOTALL)


@dataclass(frozen=True)
class LeaderboardTable:
    """The parts of the table that go into the page.

    Attributes:
        library: the script that loads DataTables and its style.
        script: the module that makes the table, with all of its data.
        columns: what is in it, in order.
        same: columns that are left out of it because all rows agree, with their value.
        rows: the first rows, for where no script runs.
        page: how many rows are in sight where scripts run.
    """

    library: str
    script: str
    columns: Sequence[Column]
    same: Sequence[tuple[Column, Markup]]
    rows: Sequence[Sequence[Markup]]
    page: int


def leaderboard_table(frame: pd.DataFrame, protocols: Sequence[Sequence[int]]) -> LeaderboardTable:
    """Make the table of a whole leaderboard.

    Args:
        frame: as `gather` completes it; empty columns are left out.
        protocols: the positions of the rows of each protocol, within which the best is looked for.
    """
    known = columns_under(correction_of(frame))
    columns = [column for column in known if column.name in frame and not _is_empty(frame[column.name])]
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
    texts["method"] = [_method(row) for row in frame.to_dict("records")]
    cells = pd.DataFrame({_header(column): texts[column.name] for column in columns}, dtype=object)
    first = [[texts[column.name][row] for column in columns] for row in range(min(_STATIC_ROWS, len(frame)))]
    agreed = [(column, texts[column.name][0]) for column in same]
    library, page = _library(), min(_PAGE, len(frame))
    script = _p_type(library) + _script(cells, columns) + _dark_mode(library)
    return LeaderboardTable(library, script, columns, agreed, first, page)


def _baselines(frame: pd.DataFrame) -> list[Markup]:
    """The baseline of each row as people should read it."""
    rows = frame.to_dict("records")
    marks = {(row["protocol_fingerprint"], row["method"]): is_transductive(row) for row in rows}
    return [
        escape(marked(row["baseline"] or "", marks.get((row["protocol_fingerprint"], row["baseline"]), False)))
        for row in rows
    ]


def _is_empty(column: pd.Series) -> bool:
    return all(is_missing(value) or value == "" for value in column)


def _needs_fingerprints(frame: pd.DataFrame, columns: Sequence[Column]) -> bool:
    """Whether protocols agree in all that the other columns say of their tasks."""
    others = ("is_transductive",)  # of methods, whatever protocol they are on
    names = [
        column.name
        for column in columns
        if column.tells_apart and column.kind != "digest" and column.name not in others
    ]
    measured = frame.loc[frame["source"] == MEASURED, [*names, "protocol_fingerprint"]].fillna("")
    return len(measured.drop_duplicates()) > len(measured.drop_duplicates(names))


def _shown_if_needed(column: Column, columns: Sequence[Column], texts: Mapping[str, Sequence[Markup]]) -> Column:
    """The column, shown where rows that differ in it could be taken for alike, or where it is the only p."""
    is_needed = column.tells_apart and len({text for text in texts[column.name] if text}) > 1
    is_only_p = column.kind == "p" and all(other.name != f"{column.name}_corrected" for other in columns)
    return replace(column, is_shown=column.is_shown or is_needed or is_only_p)


def _mark_best(frame: pd.DataFrame, texts: dict[str, list[Markup]], rows: Sequence[int]) -> None:
    """Bold for the best of a protocol that was measured here; underlined what shares a letter with it.

    Inductive and transductive methods each have their own best.
    """
    measured = [
        row for row in rows if frame["source"].iloc[row] == MEASURED and not is_missing(frame["mean"].iloc[row])
    ]
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


def _method(row: dict[Any, Any]) -> Markup:
    name = escape(row["method"])
    if is_transductive(row):
        return Markup('{} <span class="tag transductive">transductive</span>').format(name)
    if row["source"] == MEASURED:
        return name
    return Markup('<i class="published">{}</i> <span class="tag">published</span>').format(name)


def _header(column: Column) -> Markup:
    return Markup('<span title="{}">{}</span>').format(column.definition, column.header)


def _library() -> str:
    from itables.javascript import generate_init_offline_itables_html
    from itables.options import dt_bundle

    found = _SCRIPT.search(generate_init_offline_itables_html(dt_bundle))
    if found is None:
        raise RuntimeError("itables writes its library in a way that this version of the report does not know.")
    return found[1]


def _p_type(library: str) -> str:
    """How a column of p values is sorted, said before the table is made."""
    return _SORTED_BY_P.replace("{library}", _loaded(library)).replace("{name}", _P_TYPE)


def _dark_mode(library: str) -> str:
    """What itables does in a notebook: its style follows the light or dark of the browser."""
    return f"(await {_loaded(library)}).set_or_remove_dark_class();\n"


def _loaded(library: str) -> str:
    """The promise of the loaded library."""
    found = _LOADED.search(library)
    if found is None:
        raise RuntimeError("itables loads its library in a way that this version of the report does not know.")
    return found[0]


def _script(cells: pd.DataFrame, columns: Sequence[Column]) -> str:
    from itables import to_html_datatable

    p_values = [place for place, column in enumerate(columns) if column.kind == "p"]
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
    )
    found = _MODULE.match(html)
    if found is None:
        raise RuntimeError("itables writes its tables in a way that this version of the report does not know.")
    return found[1]

"""Transductive methods are never mistaken for inductive ones: whatever prints a method's name says which it is."""

from __future__ import annotations

import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from page_studies import figures_in, table_rows
from rich.console import Console
from stored_cells import TRUTH, cell, fill, predictions

from fewshot_bench.audit import CellAudit
from fewshot_bench.audit.reproduce import Reproduction
from fewshot_bench.audit.terminal import print_audit, print_reproduction
from fewshot_bench.cli.main import exit_code
from fewshot_bench.interop import ImportOptions, export_outcomes, import_outcomes
from fewshot_bench.outcomes import OutcomeStore
from fewshot_bench.outcomes.checking import check_store
from fewshot_bench.report import (
    SweptPoint,
    answers,
    as_latex,
    as_markdown,
    compare,
    compare_tasks,
    comparison_record,
    datasets_record,
    draw_sweep,
    labels_of_texts,
    leaderboard,
    leaderboard_records,
    over_datasets,
    print_comparisons,
    print_leaderboard,
    print_sweep,
    sweep_frame,
    task_record,
    update_leaderboard,
    with_labels,
)
from fewshot_bench.report.findings import main_finding
from fewshot_bench.report.page import write_page
from fewshot_bench.report.paper_figures import draw_figures, save_picture
from fewshot_bench.report.verdicts import ACROSS

pytestmark = pytest.mark.slow

BASE, TIM, MAP = "deep/centroid", "conv/tim", "conv/pt-map"
INDUCTIVE, TRANSDUCTIVE = ("conv/logistic", "conv/ridge", BASE), (MAP, TIM)
GAINS = {BASE: 0, "conv/logistic": 3, "conv/ridge": 3, TIM: 8, MAP: 12}
NAME = re.compile("|".join((*INDUCTIVE, *TRANSDUCTIVE)))
SHORT = re.compile(rf"{NAME.pattern}|^ *(?:- )?\b(?:logistic|ridge|centroid|pt-map|tim)\b", re.MULTILINE)


def names_in(text):
    """Every method's name in a text with its match; tables may have what all names begin with in their header."""
    pattern = SHORT if re.search(r"conv/(…|\.\.\.)", text) else NAME
    found = [(match[0].lstrip(" -"), match) for match in pattern.finditer(text)]
    return [(name if "/" in name else f"conv/{name}", match) for name, match in found]


def cell_of(name, **protocol):
    of, adaptation = cell(name, **{"dataset": "birds", **protocol}), name.partition("/")[2]
    is_one = name in TRANSDUCTIVE
    method = replace(of.method, adaptation=adaptation, is_transductive=is_one, assumes_balanced_queries=name == MAP)
    return replace(of, method=method)


def store_both(results, *, names=tuple(GAINS), datasets=("birds", "coins"), episodes=30, **protocol) -> OutcomeStore:
    """Three inductive and two transductive methods, which are better by several queries of 75."""
    store, generator = OutcomeStore(results / "outcomes"), np.random.default_rng(3)
    for dataset in datasets:
        hard = generator.integers(-6, 7, size=(2, episodes))
        for number, name in enumerate(names):
            counts = 35 + GAINS[name] + hard + generator.integers(-3, 4, size=(2, episodes))
            fill(store, cell_of(name, dataset=dataset, **protocol), counts, seconds=0.001 * (1 + number**2))
    return store


def to_text(write, width=200, **options) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    write(console)
    return console.file.getvalue()


def command(*arguments) -> Callable[[Path, pytest.CaptureFixture], str]:
    def run(results, capsys):
        assert exit_code([*arguments, "--results", str(results)]) == 0
        return capsys.readouterr().out

    return run


def swept(results) -> pd.DataFrame:
    """A sweep in which one point is transductive, as with an axis `bn`."""
    store = OutcomeStore(results / "outcomes")
    points = [SweptPoint({"C": number + 1}, [cell_of(name)]) for number, name in enumerate((BASE, TIM))]
    return sweep_frame(store, points, episodes=30, runs=2)


def page_of(results, **options) -> str:
    write_page(results, results / "report.html", **options)
    return (results / "report.html").read_text(encoding="utf-8")


def static_page(results, **options) -> str:
    """What of the page can be read without a script, and the table's rows; tags become spaces."""
    answers = r'<details class="answers".*?</details>'  # whose sentences begin with the kind
    page = re.sub(answers, "", page_of(results, **options), flags=re.DOTALL)
    cards = re.sub(r"<pre.*?</pre>", "", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL), flags=re.DOTALL)
    table = " ".join(" ".join(row) for row in table_rows(page))
    plain = re.sub(r"<[^>]*>", " ", f"{cards} {table}")
    return html.unescape(plain).replace(" transductive ", " (transductive) ")


def figures_of(results, *places, baseline=BASE) -> str:
    content = figures_in(page_of(results, baseline=baseline))
    figures = [figure for protocol in content["protocols"] for key, figure in protocol.items() if key in places]
    figures += [figure for key, figure in content["fixed"].items() if key.rpartition("-")[0] in places]
    assert figures
    return json.dumps(figures)


def paper_figures(results, monkeypatch) -> str:
    """The names at the axis of each figure for a paper, and what stands below it."""
    seen = []

    def watched(figure, stem):
        if figure.get_supxlabel():
            seen.extend([*(tick.get_text() for tick in figure.axes[0].get_yticklabels()), figure.get_supxlabel()])
        return save_picture(figure, stem)

    monkeypatch.setattr("fewshot_bench.report.paper_figures.save_picture", watched)
    content = write_page(results, results / "report.html", baseline=TIM)
    draw_figures(content, results / "figures")
    return "\n".join(seen)


def two(results) -> str:
    store = OutcomeStore(results / "outcomes")
    a, b = (store.outcomes(cell_of(name)) for name in (TIM, BASE))
    return f"{compare(a, b)} {compare(b, a)}"


def prepared(results, **options) -> pd.DataFrame:
    return leaderboard(OutcomeStore(results / "outcomes"), **options)


def tasks_of(results, **options):
    return compare_tasks(OutcomeStore(results / "outcomes"), **options)


TEXTS = {
    "leaderboard in the terminal": lambda r, c: to_text(lambda t: print_leaderboard(prepared(r, baseline=BASE), t)),
    "leaderboard against a transductive baseline": lambda r, c: to_text(
        lambda t: print_leaderboard(prepared(r, baseline=TIM), t)
    ),
    "leaderboard without Unicode": lambda r, c: to_text(
        lambda t: print_leaderboard(prepared(r, baseline=BASE), t), legacy_windows=False
    ),
    "leaderboard command": command("leaderboard", "--baseline", TIM),
    "Markdown": lambda r, c: as_markdown(prepared(r)).replace("\\", ""),
    "LaTeX": lambda r, c: as_latex(prepared(r)),
    "compare all": lambda r, c: to_text(lambda t: print_comparisons(tasks_of(r), over_datasets(tasks_of(r)), t)),
    "compare with a baseline": lambda r, c: to_text(lambda t: print_comparisons(tasks_of(r, baseline=TIM), [], t)),
    "compare two, class by class": command("compare", TIM, BASE, "--per-class"),
    "a comparison in a sentence": lambda r, c: two(r),
    "page": lambda r, c: static_page(r, baseline=BASE),
    "page with a transductive baseline": lambda r, c: static_page(r, baseline=TIM),
    "page without a baseline": lambda r, c: static_page(r),
    "figure of differences": lambda r, c: figures_of(r, "differences-plot"),
    "figure of the episodes": lambda r, c: figures_of(r, "distributions-plot"),
    "figure of the classes": lambda r, c: figures_of(r, "classes-plot", baseline=TIM),
    "figure of accuracy and cost": lambda r, c: figures_of(r, "cost-plot"),
    "figure of ranks": lambda r, c: figures_of(r, "ranking"),
    "status": command("status", "--once"),
    "store check": command("store", "check"),
    "store compact": command("store", "compact"),
}


def unmarked(text: str) -> list[str]:
    """Names that are not followed by what they are, but for answers that begin with it."""
    text = re.sub(r"Among transductive methods, .*?(?=\n\n|\nWhich method|\Z)", "", text, flags=re.DOTALL)
    wrong = []
    for name, found in names_in(text):
        is_marked = re.match(r"\s+\(transductive\)", text[found.end() :]) is not None
        if is_marked != (name in TRANSDUCTIVE):
            wrong.append(text[max(0, found.start() - 30) : found.end() + 30])
    return wrong


@pytest.mark.parametrize("output", TEXTS)
def test_every_name_of_a_transductive_method_says_so_and_no_other_does(output, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    store_both(tmp_path)
    text = TEXTS[output](tmp_path, capsys)
    assert any(name in TRANSDUCTIVE for name, _ in names_in(text))
    assert unmarked(text) == []


def test_figures_for_a_paper_say_so_at_their_axes(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    pytest.importorskip("scikit_posthocs")
    store_both(tmp_path)
    text = paper_figures(tmp_path, monkeypatch)
    assert MAP in text
    assert f"below {TIM} (transductive)" in re.sub(r"\s+", " ", text)
    assert unmarked(text) == []


def test_the_matrix_of_pairs_has_a_short_mark_that_its_caption_explains(tmp_path):
    store_both(tmp_path)
    page = page_of(tmp_path)
    (axis, *_) = [one["pairs-plot"]["layout"]["yaxis"]["ticktext"] for one in figures_in(page)["protocols"]]
    assert ["[T]" in text for text in axis] == [any(name in text for name in TRANSDUCTIVE) for text in axis]
    assert "[T] marks transductive methods" in page
    hovers = json.dumps(figures_in(page)["protocols"][0]["pairs-plot"]["data"][0]["customdata"])
    assert hovers.count(ACROSS) == 2 * len(INDUCTIVE) * len(TRANSDUCTIVE)


def test_legends_say_so_and_keep_the_kinds_apart(tmp_path):
    store_both(tmp_path)
    plot = figures_in(page_of(tmp_path))["protocols"][0]["cost-plot"]
    names = {trace["name"] for trace in plot["data"]}
    assert names == {"centroid", "logistic", "ridge", "tim (transductive)", "pt-map (transductive)"}
    assert plot["layout"]["showlegend"]


def test_a_mark_is_never_cut_from_a_long_name(tmp_path):
    from fewshot_bench.report.names import marked_names

    names = [f"{'efficientnet' * 5}/tim@{number}" for number in range(3)]
    found = marked_names(names, names[1:], 40)
    assert [name.endswith(" (transductive)") for name in found] == [False, True, True]
    assert all(len(name) <= 40 for name in found)
    assert len(set(found)) == 3


def order_of(text: str) -> list[str]:
    return list(dict.fromkeys(name for name, _ in names_in(text)))


@pytest.mark.parametrize(
    "table",
    [
        "leaderboard in the terminal",
        "Markdown",
        "LaTeX",
        "compare all",
        "figure of differences",
        "figure of the episodes",
    ],
)
def test_tables_and_figures_have_inductive_methods_first(table, tmp_path, capsys):
    store_both(tmp_path, datasets=("birds",))
    found = [name for name in order_of(TEXTS[table](tmp_path, capsys)) if name != BASE]  # which stands below figures
    kinds = [name in TRANSDUCTIVE for name in found]
    assert len(found) == 4
    assert kinds == sorted(kinds), found


def test_the_csv_is_one_table_with_inductive_methods_first_and_a_column(tmp_path):
    update_leaderboard(store_both(tmp_path), tmp_path / "leaderboard.csv", BASE)
    found = pd.read_csv(tmp_path / "leaderboard.csv")
    for _, same in found.groupby("dataset"):
        assert same["is_transductive"].tolist() == [False] * 3 + [True] * 2
        assert same["method"].tolist()[3:] == [MAP, TIM]
        assert ["transductive" in str(flags) for flags in same["flags"]] == same["is_transductive"].tolist()
        assert not same["method"].str.contains("transductive").any()  # names are what `compare` takes


def test_tables_of_papers_and_answers_say_which_method_assumes_balanced_queries(tmp_path):
    store_both(tmp_path, datasets=("birds",))
    frame = prepared(tmp_path)
    markdown, latex = as_markdown(frame), as_latex(frame)
    assert f"{MAP} (transductive)‡ |" in markdown
    assert f"{TIM} (transductive) |" in markdown
    assert "‡: assumes balanced queries." in markdown
    assert rf"{MAP} (transductive)$^\ddagger$ &" in latex
    assert r"$^\ddagger$: assumes balanced queries." in latex
    (answer,) = [one for one in answers(frame) if one.is_transductive]
    assert answer.sentence.endswith(f" {MAP} assumes balanced queries.")


@pytest.mark.parametrize(
    ("output", "heading"),
    [("leaderboard in the terminal", "\ntransductive "), ("Markdown", "| *transductive* |"), ("LaTeX", "midrule\n")],
)
def test_a_heading_or_a_rule_stands_between_the_kinds(output, heading, tmp_path, capsys):
    store_both(tmp_path, datasets=("birds",))
    text = TEXTS[output](tmp_path, capsys)
    at = text.rindex(heading) if output == "LaTeX" else text.index(heading)
    first = {name: found.start() for name, found in reversed(names_in(text))}
    assert first["conv/logistic"] < at < first[MAP]


@pytest.mark.parametrize("names", [INDUCTIVE, TRANSDUCTIVE])
def test_methods_of_one_kind_need_no_heading(names, tmp_path):
    store_both(tmp_path, names=names)
    frame = prepared(tmp_path)
    text = to_text(lambda console: print_leaderboard(frame, console))
    assert not [line for line in text.splitlines() if line.strip() in ("inductive", "transductive")]
    assert "*transductive*" not in as_markdown(frame)
    assert as_latex(frame).count("midrule") == 1


def test_each_kind_has_a_best_of_its_own(tmp_path):
    store_both(tmp_path, datasets=("birds",))
    lines = as_markdown(prepared(tmp_path)).splitlines()
    bold = [line for line in lines if "**" in line]
    assert len(bold) == 2
    assert "transductive" not in bold[0]
    assert MAP in bold[1]
    rows_of_page = table_rows(page_of(tmp_path))
    assert [any("<b>" in one for one in row) for row in rows_of_page] == [True, False, False, True, False]


def test_a_comparison_across_the_kinds_says_so_in_its_sentence(tmp_path):
    store = store_both(tmp_path, datasets=("birds",))
    pairs = {(a, b): compare_tasks(store, [a, b])[0].comparisons[0] for a, b in ((TIM, BASE), (BASE, TIM), (MAP, TIM))}
    assert [ACROSS in one.headline for one in pairs.values()] == [True, True, False]
    assert [ACROSS in str(one) for one in pairs.values()] == [True, True, False]
    assert [ACROSS in comparison_record(one)["headline"] for one in pairs.values()] == [True, True, False]
    assert ACROSS not in compare_tasks(store, [BASE, "ridge"])[0].comparisons[0].headline


@pytest.mark.parametrize("baseline", [BASE, TIM])
def test_a_row_against_a_baseline_of_the_other_kind_carries_a_mark(baseline, tmp_path):
    store_both(tmp_path, datasets=("birds",))
    frame = prepared(tmp_path, baseline=baseline)
    across = [(name in TRANSDUCTIVE) != (baseline in TRANSDUCTIVE) for name in frame["method"]]
    word = "baseline is transductive" if baseline == TIM else "baseline is inductive"
    assert [word in (flags or "") for flags in frame["flags"]] == across
    text = to_text(lambda console: print_leaderboard(frame, console))
    assert text.count("better #") + text.count("worse #") == sum(across)
    assert f"#: {ACROSS}" in text


def test_the_finding_of_the_page_prefers_methods_of_the_baselines_kind_and_else_says_so(tmp_path):
    store_both(tmp_path, datasets=("birds",))
    content = write_page(tmp_path, tmp_path / "a.html", baseline=BASE)
    assert main_finding(content).startswith(("conv/logistic against deep/centroid", "conv/ridge against deep/centroid"))
    store_both(tmp_path / "few", names=(BASE, TIM), datasets=("birds",))
    found = main_finding(write_page(tmp_path / "few", tmp_path / "b.html", baseline=BASE))
    assert found.startswith("conv/tim (transductive) against deep/centroid on ")
    assert ACROSS in found
    assert ACROSS in main_finding(write_page(tmp_path / "few", tmp_path / "c.html", baseline=None))


def test_records_have_it_as_a_value(tmp_path):
    store_both(tmp_path)
    for record in leaderboard_records(prepared(tmp_path)):
        assert record["is_transductive"] is (record["method"] in TRANSDUCTIVE)
    tasks = tasks_of(tmp_path)
    for record in map(comparison_record, tasks[0].comparisons):
        assert record["is_a_transductive"] is (record["method_a"] in TRANSDUCTIVE)
        assert record["is_b_transductive"] is (record["method_b"] in TRANSDUCTIVE)
    for record in task_record(tasks[0])["methods"]:
        assert record["is_transductive"] is (record["method"] in TRANSDUCTIVE)
    (record,) = map(datasets_record, over_datasets(tasks))
    assert record["transductive"] == sorted(TRANSDUCTIVE)
    assert all(pair["is_a_transductive"] is (pair["method_a"] in TRANSDUCTIVE) for pair in record["pairs"])
    for found in check_store(tmp_path / "outcomes"):
        assert found.as_dict()["is_transductive"] is (found.as_dict()["method"] in TRANSDUCTIVE)


def test_labels_do_not_hide_it(tmp_path):
    store_both(tmp_path, datasets=("birds",))
    frame = prepared(tmp_path, baseline=TIM)
    labelled = with_labels(frame, labels_of_texts(frame, ["tim=Ours", "logistic=Theirs"]))
    printed = to_text(lambda console: print_leaderboard(labelled, console))
    for text in (printed, as_markdown(labelled).replace("\\", ""), as_latex(labelled)):
        assert re.search(r"\bOurs\b(?! \(transductive\))", text) is None
        assert "Ours (transductive)" in text
        assert "Theirs (transductive)" not in text


def test_a_label_of_both_kinds_gives_two_rows(tmp_path):
    store_both(tmp_path)
    frame = prepared(tmp_path)
    one = {("birds", TIM): "Ours", ("coins", "conv/ridge"): "Ours"}
    names = [one.get(pair, pair[1]) for pair in zip(frame["dataset"], frame["method"], strict=True)]
    table = as_markdown(frame.assign(method=names)).replace("\\", "")
    assert "| Ours |" in table
    assert "| Ours (transductive) |" in table


def test_a_sweep_says_which_points_are_transductive(tmp_path):
    store_both(tmp_path)
    frame = swept(tmp_path)
    assert frame["is_transductive"].tolist() == [False, True]
    text = to_text(lambda console: print_sweep(frame, "birds", console))
    (marked,) = [line for line in text.splitlines() if "(transductive)" in line]
    assert marked.split()[0] == "2"  # the point's value
    alone = frame[frame["is_transductive"]].reset_index(drop=True)
    assert "birds (transductive) 1-shot" in to_text(lambda console: print_sweep(alone, "birds", console))
    assert "transductive" not in to_text(
        lambda console: print_sweep(frame[~frame["is_transductive"]], "birds", console)
    )


def test_the_curve_of_a_transductive_sweep_says_so(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    store_both(tmp_path)
    store, points = OutcomeStore(tmp_path / "outcomes"), []
    for number, name in enumerate((TIM, MAP)):
        points.append(SweptPoint({"C": number + 1}, [cell_of(name)]))
    frame = sweep_frame(store, points, episodes=30, runs=2)
    seen = []
    monkeypatch.setattr(
        "fewshot_bench.report.paper_figures.save_picture",
        lambda figure, stem: seen.extend(text.get_text() for text in figure.axes[0].get_legend().get_texts()) or [],
    )
    draw_sweep(frame, "birds", tmp_path / "picture")
    assert seen[0] == "mean, 95% CI (transductive)"
    (tmp_path / "sweeps" / "mine").mkdir(parents=True)
    frame.to_csv(tmp_path / "sweeps" / "mine" / "sweep.csv", index=False)
    (plot,) = [figure for key, figure in figures_in(page_of(tmp_path))["fixed"].items() if key.startswith("sweep")]
    assert plot["data"][0]["name"] == "1-shot (transductive)"


@pytest.mark.parametrize("is_one", [False, True])
def test_audit_and_reproduction_say_so(is_one):
    audit = CellAudit("k", "birds", "conv/tim", (), is_transductive=is_one)
    text = to_text(lambda console: print_audit(audit, console))
    again = Reproduction("k", "birds", "conv/tim", 9, 9, 9, 0, (), 50.0, 50.0, is_transductive=is_one)
    text += to_text(lambda console: print_reproduction(again, console))
    assert text.count("conv/tim (transductive)") == 2 * is_one
    assert audit.as_dict()["is_transductive"] is again.as_dict()["is_transductive"] is is_one


@pytest.mark.parametrize(
    ("sampler", "settings", "expected"),
    [
        ("standard", {}, "transductive; assumes balanced queries"),
        ("dirichlet", {"alpha": 2.0}, "transductive; assumes balanced queries, which these episodes do not have"),
    ],
)
def test_an_assumption_about_the_queries_is_flagged_and_whether_it_holds(sampler, settings, expected, tmp_path):
    of, right = cell_of(MAP, sampler=sampler, sampler_settings=settings), predictions(np.full(10, 40))
    truth = np.tile(TRUTH, (10, 1))
    OutcomeStore(tmp_path / "outcomes").append(of, 0, np.arange(10), right, 0.1, truth=truth)
    assert prepared(tmp_path)["flags"].tolist() == [expected]


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_an_export_says_so_and_an_import_takes_it_over(suffix, tmp_path):
    store = store_both(tmp_path, datasets=("birds",))
    path = tmp_path / f"all{suffix}"
    export_outcomes(store, path)
    table = pd.read_csv(path) if suffix == ".csv" else pd.read_parquet(path)
    assert (table["is_transductive"] == table["method"].isin(TRANSDUCTIVE)).all()
    again = OutcomeStore(tmp_path / "again" / "outcomes")
    import_outcomes([path], again)
    kinds = {one.method.name: one.method.is_transductive for one in again.cells()}
    assert kinds == {name: name in TRANSDUCTIVE for name in GAINS}
    assert unmarked(to_text(lambda console: print_leaderboard(leaderboard(again), console))) == []


def test_an_import_can_be_told_which_methods_are_transductive(tmp_path, capsys):
    table = pd.DataFrame({"episode": range(20), BASE: np.linspace(0.4, 0.6, 20), TIM: np.linspace(0.5, 0.65, 20)})
    table.to_csv(tmp_path / "acc.csv", index=False)
    words = ["outcomes", "import", str(tmp_path / "acc.csv"), "--dataset", "birds", "--way", "5", "--shot", "1"]
    words += ["--results", str(tmp_path)]
    assert exit_code([*words, "--transductive", TIM]) == 0
    assert unmarked(capsys.readouterr().out) == []
    kinds = {one.method.name: one.method.is_transductive for one in OutcomeStore(tmp_path / "outcomes").cells()}
    assert kinds == {BASE: False, TIM: True}
    assert exit_code(words) == 2  # the same file without the word would be another method of that name
    assert f"{TIM} is stored as transductive and would be imported as inductive" in capsys.readouterr().err
    assert exit_code([*words, "--transductive", "other"]) == 2
    assert "no file has such a method" in capsys.readouterr().err
    table[[BASE]].to_csv(tmp_path / "acc.csv", index=False)
    assert exit_code([*words[:-1], str(tmp_path / "new")]) == 0
    assert "note         all count as inductive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("column", "options", "reason"),
    [
        (["true"] * 9 + ["false"], (), "is said to be transductive, and not to be"),
        (["perhaps"] * 10, (), "should be true or false"),
        (["false"] * 10, ("m",), "is said to be transductive, and not to be"),
    ],
)
def test_a_file_that_contradicts_itself_is_refused(column, options, reason, tmp_path):
    from fewshot_bench.errors import AccuracyFileError

    frame = pd.DataFrame({"method": "m", "episode": range(10), "accuracy": 0.5, "is_transductive": column})
    frame.to_csv(tmp_path / "acc.csv", index=False)
    told = ImportOptions(dataset="birds", way=5, shot=1, transductive=options)
    with pytest.raises(AccuracyFileError, match=reason):
        import_outcomes([tmp_path / "acc.csv"], OutcomeStore(tmp_path / "outcomes"), told)
    assert not (tmp_path / "outcomes").exists()

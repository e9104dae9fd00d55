"""A file of labels: what an author calls methods, how they are grouped, and which are the author's own."""

from __future__ import annotations

import json
import re

import pandas as pd
import pytest
from page_studies import BASE, BETTER, store_study, table_rows
from stored_cells import study

from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import ComparisonError
from fewshot_bench.report import Labels, as_latex, as_markdown, labelled, leaderboard, read_labels

BOARD = pd.DataFrame(
    {
        "method": ["lite0/logistic", "lite0/centroid", "lite0/knn", "BEiT-3 logistic"],
        "method_fingerprint": [*(f"{n:064d}" for n in range(3)), None],
        "protocol_fingerprint": "p",
        "baseline": "lite0/knn",
    }
)
FILE = """
highlight = ["Ours & more"]

[names]
logistic = "Ours & more"
"conv/ce/centroid" = "Base_1"

[groups]
"This work <b>" = ["Ours & more"]
"Baselines" = ["ce/centroid"]
"""


def written(tmp_path, text):
    path = tmp_path / "labels.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_names_groups_and_own_methods(tmp_path):
    found = read_labels(written(tmp_path, FILE))
    assert found.names == {"logistic": "Ours & more", "conv/ce/centroid": "Base_1"}
    assert list(found.groups) == ["This work <b>", "Baselines"]
    assert found.own == ["Ours & more"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[names", "cannot be read"),
        ("[nams]", "there is no key called 'nams'. Did you mean names?"),
        ('highlights = ["a"]', "Did you mean highlight?"),
        ('highlight = "a"', "highlight is a list of methods"),
        ('names = ["a"]', "names is a table of labels"),
        ("[names]\na = 3", "names is a table of labels"),
        ('[names]\na = " "', "names is a table of labels"),
        ('[groups]\na = "b"', "groups is a table with a list of methods for each heading"),
        ("[groups]\na = [1]", "groups is a table with a list of methods"),
    ],
)
def test_a_file_that_says_something_else_is_one_sentence_that_names_it(tmp_path, text, words):
    with pytest.raises(ComparisonError, match=re.escape(words)) as error:
        read_labels(written(tmp_path, text))
    assert "labels.toml" in str(error.value)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(ComparisonError, match=r"missing\.toml cannot be read"):
        read_labels(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (Labels({"logistik": "x"}), "no method called 'logistik'. Did you mean"),
        (Labels(own=["centroit"]), "no method called 'centroit'"),
        (Labels(groups={"A": ["lite0/kn"], "B": ["knnn"]}), "no method called 'knnn'"),
        (Labels({"lite0": "x"}), "'lite0' fits 3 methods"),
        (Labels(own=["lite0"]), "'lite0' fits 3 methods"),
        (Labels({"logistic": "A", "lite0/logistic": "B"}), "would be called both 'A' and 'B'"),
        (Labels(groups={"A": ["knn"], "B": ["lite0/knn"]}), "lite0/knn is in the groups 'A' and 'B'. Leave it in one"),
    ],
)
def test_a_name_that_fits_no_method_or_several_is_one_sentence_with_the_file(labels, words):
    with pytest.raises(ComparisonError, match=re.escape(words)) as error:
        labelled(BOARD, labels, where="mine.toml")
    assert str(error.value).startswith("mine.toml: ")


def test_two_methods_of_a_protocol_with_one_label_are_refused(tmp_path):
    board = leaderboard(study(tmp_path))
    with pytest.raises(ComparisonError, match="would be called 'Both'"):
        labelled(board, Labels({"logistic": "Both", "conv/ce/centroid": "Both"}))


@pytest.mark.parametrize("other", ["Both ", "Bo\u200bth", "\u00a0Both", "Both\n", "\uff22oth"])
def test_two_methods_whose_labels_look_the_same_are_refused(tmp_path, other):
    board = leaderboard(study(tmp_path))
    with pytest.raises(ComparisonError, match="Give each its own label"):
        labelled(board, Labels({"logistic": "Both", "conv/ce/centroid": other}))


@pytest.mark.parametrize("content", [b"\xff\xfe", b" " * 2_000_000, None])
def test_a_file_that_is_no_text_of_a_sensible_size_is_one_sentence(tmp_path, content):
    path = tmp_path / "labels.toml"
    path.mkdir() if content is None else path.write_bytes(content)
    with pytest.raises(ComparisonError, match=r"labels\.toml cannot be read"):
        read_labels(path)


def test_rows_get_labels_headings_and_marks_and_the_frame_stays():
    before = BOARD.copy()
    shown = labelled(
        BOARD, Labels({"logistic": "Ours"}, {"New": ["Ours", "BEiT-3 logistic"], "Old": ["knn"]}, ["Ours"])
    )
    assert shown["method"].tolist() == ["Ours", "lite0/centroid", "lite0/knn", "BEiT-3 logistic"]
    assert shown["heading"].tolist() == ["New", "other methods", "Old", "New"]
    assert shown["is_own"].tolist() == [True, False, False, False]
    assert shown["is_labelled"].tolist() == [True, False, False, False]
    pd.testing.assert_frame_equal(BOARD, before)


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("labels")
    return labelled(leaderboard(study(folder), "logistic"), read_labels(written(folder, FILE)))


@pytest.mark.parametrize(("label", "written"), [("[1]", "{[}1]"), ("*", "{*}"), ("a[1]*", "a[1]*")])
def test_a_label_is_not_taken_for_an_option_of_the_row_above(tmp_path, label, written):
    table = as_latex(labelled(leaderboard(study(tmp_path)), Labels({"logistic": label})))
    assert f"\n{written} & " in table


def test_dollars_are_no_formula_in_markdown(tmp_path):
    assert r"\$x\$" in as_markdown(labelled(leaderboard(study(tmp_path)), Labels({"logistic": "$x$"})))


def test_markdown_has_the_groups_in_their_order_own_names_in_bold_and_escapes_both(board):
    lines = as_markdown(board).splitlines()
    names = [line.split(" | ")[0].removeprefix("| ") for line in lines if line.startswith("| ")][2:]
    first = [r"*This work \<b\>*", r"**Ours \& more**", "*Baselines*", r"Base\_1"]
    assert names == [*first, "*other methods*", "conv/ce+schane/centroid"]
    assert "Bold names: our own methods." in as_markdown(board)


def test_latex_has_them_too(board):
    text = as_latex(board)
    first, second, third = (text.index(part) for part in (r"\textbf{Ours \& more}", r"Base\_1", "conv/ce+schane"))
    assert text.index(r"\multicolumn{3}{l}{\textit{This work \textless{}b\textgreater{}}} \\") < first < second < third
    assert r"\midrule" + "\n" + r"\multicolumn{3}{l}{\textit{Baselines}}" in text


def test_without_groups_the_kinds_stay(tmp_path):
    plain = leaderboard(study(tmp_path), "logistic")
    assert as_markdown(labelled(plain, Labels())) == as_markdown(plain)
    assert as_latex(labelled(plain, Labels())) == as_latex(plain)


@pytest.mark.slow
class TestCommands:
    @pytest.fixture
    def results(self, tmp_path):
        return store_study(tmp_path / "results", episodes=10)

    def test_the_page_shows_labels_groups_and_own_rows_and_the_csv_stays(self, results, tmp_path, capsys):
        labels = written(
            tmp_path, f'highlight = ["Ours"]\n[names]\n"{BETTER}" = "Ours"\n[groups]\n"A <i>" = ["Ours"]\n'
        )
        assert exit_code(["leaderboard", "--results", str(results), "--baseline", BASE]) == 0
        before = (results / "leaderboard.csv").read_bytes()
        capsys.readouterr()
        assert exit_code(["report", "--results", str(results), "--labels", str(labels)]) == 0
        page = (results / "report.html").read_text(encoding="utf-8")
        rows = table_rows(page)
        own = [row for row in rows if '<span class="own">Ours</span>' in row[0]]
        assert len(own) == 4
        assert all(row[-1] == '<span data-p="0">A &lt;i&gt;</span>' for row in own)
        assert {row[-1] for row in rows} == {own[0][-1], '<span data-p="1">other methods</span>'}
        assert re.search(r'<p class="finding">On \w+ at \d shots?, Ours is better than conv \+ ce \+ centroid', page)
        assert "<i>" not in page.partition("<script")[0].replace("A &lt;i&gt;", "")
        assert exit_code(["leaderboard", "--results", str(results), "--labels", str(labels)]) == 0
        assert (results / "leaderboard.csv").read_bytes() == before
        out = capsys.readouterr().out
        assert "Ours" in out
        assert BETTER not in out

    def test_json_keeps_the_names_and_a_label_beside_a_file_counts_too(self, results, tmp_path, capsys):
        labels = written(tmp_path, f'[names]\n"{BETTER}" = "Ours"\n')
        command = ["leaderboard", "--results", str(results), "--labels", str(labels), "--label", f"{BASE}=Theirs"]
        table = tmp_path / "table.md"
        assert exit_code([*command, "--json", "--markdown", str(table)]) == 0
        assert {row["method"] for row in json.loads(capsys.readouterr().out)} >= {BASE, BETTER}
        assert {"| Ours", "| Theirs"} <= {line.split(" | ")[0] for line in table.read_text().splitlines()}

    def test_a_typo_is_one_line_and_nothing_is_written(self, results, tmp_path, capsys):
        labels = written(tmp_path, '[names]\n"ce/centroit" = "Ours"\n')
        assert exit_code(["report", "--results", str(results), "--labels", str(labels)]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error: ")
        assert error.count("\n") == 1
        assert "labels.toml" in error
        assert "Did you mean" in error
        assert not (results / "report.html").exists()

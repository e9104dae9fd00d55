"""`fewshot-bench report` as a user types it."""

from __future__ import annotations

import subprocess
import sys
import webbrowser

import pytest
from page_studies import BASE, BETTER, store_study

from fewshot_bench.cli.main import exit_code

pytestmark = pytest.mark.slow


@pytest.fixture
def results(tmp_path):
    return store_study(tmp_path / "results", episodes=10)


def test_it_writes_the_page_and_says_where(results, capsys):
    assert exit_code(["report", "--results", str(results), "--baseline", BASE, "--title", "Mine"]) == 0
    assert f"report       {results / 'report.html'}" in capsys.readouterr().out
    page = (results / "report.html").read_text(encoding="utf-8")
    assert "<h1>Mine</h1>" in page
    assert BETTER in page
    assert not (results / "leaderboard.csv").exists()


def test_the_baseline_of_the_leaderboard_stays_in_force(results, capsys):
    assert exit_code(["leaderboard", "--results", str(results), "--baseline", BETTER]) == 0
    assert exit_code(["report", "--results", str(results)]) == 0
    assert "--baseline" not in capsys.readouterr().out.splitlines()[-1]
    assert f"points above or below\\u003cbr>{BETTER.removeprefix('conv/')}" in (results / "report.html").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(("correct", "words"), [("bh", "corrected by BH"), ("none", "uncorrected")])
def test_another_correction_holds_for_the_table_the_letters_and_the_matrix(results, correct, words):
    command = ["report", "--results", str(results), "--baseline", BASE, "--correct", correct]
    assert exit_code(command) == 0
    page = (results / "report.html").read_text(encoding="utf-8")
    assert f"{words} over all pairs of the protocol" in page
    assert f"{words} for the number of methods" in page
    body = page.partition("<script")[0]
    assert "Holm" not in body
    assert ("<dt>p (BH)</dt>" in body) == (correct == "bh")


def test_an_unknown_correction_is_refused(results, capsys):
    assert exit_code(["report", "--results", str(results), "--correct", "tukey"]) == 2
    assert "--correct takes holm, bh, none, not 'tukey'" in capsys.readouterr().err


def test_open_opens_that_file_in_the_browser(results, monkeypatch, tmp_path):
    opened = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    out = tmp_path / "a page.html"
    assert exit_code(["report", "--results", str(results), "--out", str(out), "--open"]) == 0
    assert opened == [out.resolve().as_uri()]


def test_without_a_browser_it_says_so(results, monkeypatch, capsys):
    monkeypatch.setattr(webbrowser, "open", lambda address: False)
    assert exit_code(["report", "--results", str(results), "--open"]) == 0
    assert "browser" in capsys.readouterr().err


def test_figures_go_into_their_folder(results, tmp_path, capsys):
    folder = tmp_path / "figures"
    assert exit_code(["report", "--results", str(results), "--baseline", BASE, "--figures", str(folder)]) == 0
    files = sorted(path.name for path in folder.iterdir())
    assert "forest-1-birds-5-way-1-shot.svg" in files
    for name in ("confusion-2-birds-5-way-5-shot", "shots-1-birds-5-way"):
        assert {f"{name}.svg", f"{name}.png"} <= set(files)
    assert f"{len(files)} files in {folder}" in capsys.readouterr().out


def test_figures_without_matplotlib_leave_the_page_and_say_what_is_missing(results, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert exit_code(["report", "--results", str(results), "--figures", str(tmp_path / "figures")]) == 0
    assert "pip install matplotlib" in capsys.readouterr().err
    assert (results / "report.html").is_file()


def test_an_unknown_baseline_is_one_line(results, capsys):
    assert exit_code(["report", "--results", str(results), "--baseline", "resnet"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1


def test_it_needs_neither_torch_nor_images(results):
    program = (
        "import sys; from fewshot_bench.cli.main import exit_code; "
        f"assert exit_code(['report', '--results', {str(results)!r}]) == 0; "
        "sys.exit(str([name for name in ('torch', 'torchvision', 'timm') if name in sys.modules] or ''))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == ""

"""The pages hang together: links lead somewhere, every page can be reached, and named commands and options exist."""

from __future__ import annotations

import re
from importlib import import_module

import pandas as pd
import pytest
import typer
from documentation import ALL_PAGES, DOCS, PAGES, ROOT, anchors, code, links, name_of

import fewshot_bench
from fewshot_bench.cli.commands import COMMANDS, app

INDEX = (DOCS / "index.md").read_text(encoding="utf-8")
SECTIONS = ["Start", "Tutorials", "How-to", "Concepts", "Reference", "Project"]
WITH_PARTS = {"data", "cache", "outcomes", "store", "episodes"}
COMMAND = re.compile(r"\bfewshot-bench ([a-z][a-z-]*)((?:[^`#\n]|\\\n)*)")


@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_link_leads_to_a_file_and_a_heading(page):
    for target in links(page):
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


def test_every_page_is_in_the_navigation_once():
    reached = [
        (page.parent / target).resolve()
        for page in (DOCS / "index.md", DOCS / "python.md")
        for target in links(page)
        if target.endswith(".md") and not target.startswith("..")
    ]
    assert sorted(reached) == sorted(set(PAGES) - {DOCS / "index.md"})


def test_the_navigation_has_its_sections_in_order():
    assert re.findall(r"^## (.+)$", INDEX, re.MULTILINE) == SECTIONS


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_one_title(page):
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    assert len(re.findall(r"^# ", text, re.MULTILINE)) == 1


def options_of(command: str, part: str) -> set[str]:
    """The options of a command, or of its part, such as `data import`."""
    context = typer.Context(typer.main.get_command(app))
    found = context.command.get_command(context, command)
    if command in WITH_PARTS and part:
        found = found.get_command(typer.Context(found), part)
        assert found is not None, f"fewshot-bench {command} {part}"
    return {name for parameter in found.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}


@pytest.mark.slow
@pytest.mark.parametrize("page", ALL_PAGES, ids=name_of)
def test_every_command_and_option_that_a_page_shows_exists(page):
    for command, rest in COMMAND.findall(code(page)):
        assert command in COMMANDS, command
        part = re.match(r" ([a-z]+)", rest)
        known = options_of(command, part[1] if part else "")
        for option in re.findall(r"(?<!\S)(--[a-z][a-z-]*)", rest):
            assert option in known, f"fewshot-bench {command}{rest}"


def test_every_command_has_a_row_on_its_page():
    page = (DOCS / "commands.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z]+)` \|", page, re.MULTILINE) == list(COMMANDS)


def test_every_public_name_is_in_the_reference():
    reference = "\n".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    named = set(re.findall(r"^\.\. (?:auto\w+|py:data):: ([\w.]+)$", reference, re.MULTILINE))
    whole = re.findall(r"^\.\. automodule:: ([\w.]+)$", reference, re.MULTILINE)
    named |= {name for module in whole for name in import_module(module).__all__}
    assert set(fewshot_bench.__all__) <= {name.rpartition(".")[2] for name in named}


def test_the_annotated_table_shows_measured_numbers():
    picture = (DOCS / "reading-the-table.svg").read_text(encoding="utf-8")
    rows = pd.read_csv(ROOT / "results" / "heads" / "leaderboard.csv")
    chosen = rows[(rows["dataset"] == "cifar-fs") & (rows["shot"] == 5) & (rows["sampler"] == "standard")]
    row = chosen.set_index("adaptation").loc["finetune-head"]
    low, high = row["diff_data_ci95_low"], row["diff_data_ci95_high"]
    for shown in (
        f">{row['mean']:.2f}<",
        f">± {row['ci95']:.2f}<",
        f">± {row['data_ci95']:.2f}<",
        f">{row['difference']:+.2f}<",
        f">({low:+.2f}, {high:+.2f})<",
        f">{row['verdict']}<",
        f">{row['group']}<",
    ):
        assert shown in picture


def test_the_environment_of_the_site_has_the_packages_of_its_extra():
    extra = re.search(r"^docs = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    environment = (ROOT / "tox.ini").read_text(encoding="utf-8").split("[testenv:docs]")[1]
    packages = re.findall(r'"([^"]+)"', extra[1])
    assert packages
    assert all(f"\n    {package}\n" in environment for package in packages)

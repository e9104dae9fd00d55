"""The documentation site: `sphinx-build -W -n docs build/site`, or `tox -e docs`.

Pages are Markdown that also reads well on GitHub: `index.md` is a list of links, which become the navigation here, and
links to files outside `docs/` become links to the repository.
"""

from __future__ import annotations

import inspect
import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from docutils import nodes
from pydantic import BaseModel
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.util import logging
from sphinx.util.inspect import stringify_signature
from sphinx.util.nodes import make_refnode

from fewshot_bench import __version__

DOCS = Path(__file__).resolve().parent
REPOSITORY = "https://github.com/fewshot-bench/fewshot-bench"
LOGGER = logging.getLogger(__name__)

project = "fewshot-bench"
author = "The fewshot-bench authors"
release = version = __version__
project_copyright = author

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["**/.ipynb_checkpoints"]
highlight_language = "none"
smartquotes = False
nitpicky = True

myst_heading_anchors = 4
nb_execution_mode = "force"  # a cache is keyed by the notebook alone and would hide that the package has changed
nb_execution_timeout = 600  # seconds per cell, for busy machines
nb_execution_raise_on_error = True
nb_execution_in_temp = True
nb_ipywidgets_js: dict[str, dict[str, str]] = {}  # by default from a CDN

autodoc_member_order = "bysource"
default_role = "py:obj"  # `Name` in a docstring is a link where the reference has it, and code elsewhere
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_attr_annotations = False

html_theme = "furo"
html_title = f"fewshot-bench {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {"source_repository": REPOSITORY, "source_branch": "main", "source_directory": "docs/"}

BASH = """
import subprocess

def bash(line, cell):  # IPython's own %%bash passes output on in pieces of 100 bytes, which tear lines
    done = subprocess.run(["bash", "-e", "-c", cell], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    print(done.stdout, end="")
    done.check_returncode()

get_ipython().register_magic_function(bash, "cell", "bash")
"""

# Notebooks run as a new user would: an empty home, no network, the command of this Python.
HOME = tempfile.TemporaryDirectory(prefix="fewshot-bench-docs-")  # removed when Sphinx ends
os.environ["FEWSHOT_BENCH_HOME"] = HOME.name
os.environ["IPYTHONDIR"] = HOME.name
STARTUP = Path(HOME.name, "profile_default", "startup", "bash.py")
STARTUP.parent.mkdir(parents=True)
STARTUP.write_text(BASH, encoding="utf-8")
os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
os.environ.update({"HF_HUB_OFFLINE": "1", "MPLBACKEND": "agg", "COLUMNS": "92", "NO_COLOR": "1"})
os.environ.update({"TTY_COMPATIBLE": "0", "PYTHONWARNINGS": "ignore:IProgress not found"})  # no progress bars

LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([\w./-]+)((?:#[\w-]+)?)\)")
LISTED = re.compile(r"^- \[([^\]]+)\]\(([^)\s]+)\)", re.MULTILINE)
SECTION = re.compile(r"^## (.+)$", re.MULTILINE)


def links_to_the_repository(text: str, page: Path) -> str:
    """Replace links to files outside `docs/` by links to the repository."""

    def replaced(link: re.Match[str]) -> str:
        words, target, anchor = link.groups()
        path = (page.parent / target).resolve()
        if path.is_relative_to(DOCS):
            return link[0]
        if not path.exists():
            LOGGER.warning("%s links to %s, which does not exist", page.name, target)
        kind = "tree" if path.is_dir() else "blob"
        return f"[{words}]({REPOSITORY}/{kind}/main/{path.relative_to(DOCS.parent).as_posix()}{anchor})"

    return LINK.sub(replaced, text)


def navigation(text: str) -> str:
    """A page of links, and the links of each section as a hidden table of contents."""
    _, *parts = SECTION.split(text)
    tables = []
    for caption, section in zip(parts[::2], parts[1::2], strict=True):
        links = [f"{words} <{target.removesuffix('.md')}>" for words, target in LISTED.findall(section)]
        tables.append("\n".join(["```{toctree}", ":hidden:", f":caption: {caption}", "", *links, "```"]))
    return "\n\n".join([text, *tables])


def read_page(app: Sphinx, name: str, source: list[str]) -> None:
    """Prepare the text of a page before it is parsed."""
    text = links_to_the_repository(source[0], Path(app.env.doc2path(name)))
    source[0] = navigation(text) if name in ("index", "python") else text


def spread_notebooks(app: Sphinx, env: BuildEnvironment, names: list[str]) -> None:
    """Deal the notebooks out among the pages, which `-j 2` reads in portions: side by side they take half the time."""
    notebooks = [name for name in names if "{code-cell}" in Path(env.doc2path(name)).read_text(encoding="utf-8")]
    others = [name for name in names if name not in notebooks]
    for number, name in enumerate(notebooks):
        others.insert(number * len(names) // len(notebooks), name)
    names[:] = others


def colour_code(app: Sphinx, tree: nodes.document) -> None:
    """Name the language of indented code, which Markdown cannot."""
    for block in tree.findall(nodes.literal_block):
        first = block.astext().split(maxsplit=1)[:1]
        if block.get("language") != "none" or not first:
            continue
        if first[0] in ("import", "from"):
            block["language"] = "python"
        elif first[0] in ("fewshot-bench", "pip", "python", "python3", "export", "ray", "tox"):
            block["language"] = "bash"
        block["force"] = True


def plain_docstring(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Escape what reStructuredText takes for markup: docstrings mark names by single backticks, and nothing else."""
    is_example = False
    for number, line in enumerate(lines):
        is_example = line.lstrip().startswith(">>>") or (is_example and bool(line.strip()))
        if not is_example:
            parts = line.split("`")
            parts[::2] = [re.sub(r"([*|]|(?<=\w)_(?=[\s,.;)]|$))", r"\\\1", part) for part in parts[::2]]
            lines[number] = "`".join(parts)
    if what in ("property", "attribute", "data"):
        lines.insert(0, "")  # napoleon would take the words before a colon of the first line for a type


def source_signature(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, arguments: str | None, returns: str | None
) -> tuple[str | None, str | None]:
    """A signature as the source has it, `ArrayLike` instead of what NumPy means by it."""
    if isinstance(thing, type) and issubclass(thing, BaseModel):
        return "(**settings)", None
    if not callable(thing) or arguments is None:
        return arguments, returns
    signature = inspect.signature(thing)
    if what == "method" and not inspect.ismethod(thing):
        signature = signature.replace(parameters=list(signature.parameters.values())[1:])
    result = signature.return_annotation
    shown = result if isinstance(result, str) and what != "class" else None
    return stringify_signature(signature, show_return_annotation=False), shown


def link_names(app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node) -> nodes.Node | None:
    """Find a Python name wherever the reference has it; types of other packages and internal ones stay text."""
    if node.get("refdomain") != "py":
        return None
    wanted = node["reftarget"].rpartition(".")[2]
    for name, _, _, page, anchor, _ in env.domains["py"].get_objects():
        if name.rpartition(".")[2] == wanted:
            return make_refnode(app.builder, node["refdoc"], page, anchor, content, name)
    return content


def setup(app: Sphinx) -> dict[str, Any]:
    """Register what this file adds to Sphinx."""
    app.connect("autodoc-process-docstring", plain_docstring, priority=100)  # before napoleon
    app.connect("autodoc-process-signature", source_signature)
    app.connect("missing-reference", link_names)
    app.connect("env-before-read-docs", spread_notebooks)
    app.connect("source-read", read_page)
    app.connect("doctree-read", colour_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}

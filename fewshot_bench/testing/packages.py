"""`fewshot-bench new`: a small package with an adaptation, a loss, a backbone or a dataset, and its test."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from keyword import iskeyword
from pathlib import Path
from string import Template

from fewshot_bench.errors import StudyError, UnknownNameError

KINDS: Mapping[str, str] = {
    "adaptation": "{class_name}",
    "loss": "{module}",
    "backbone": "{module}",
    "dataset": "open_{module}",
}
"""What can be written, with what its entry point names."""

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")
_LONGEST_NAME = 40
_TEMPLATES = Path(__file__).parent / "templates"


def write_package(kind: str, name: str, into: Path, *, taken: Iterable[str] = ()) -> Path:
    """Write a package whole or not at all; nothing is overwritten.

    Args:
        kind: one of `KINDS`.
        name: what commands will call it; it also names the folder, and the module with "_" for "-".
        into: the folder that gets the package's folder.
        taken: names that mean something else already.

    Returns:
        The package's folder.

    Raises:
        UnknownNameError: there is no such kind.
        StudyError: the name cannot be one, is taken, or the folder exists.
    """
    if kind not in KINDS:
        raise UnknownNameError("kind of package", kind, KINDS)
    _check(kind, name, taken)
    target = into / name
    if os.path.lexists(target):
        raise StudyError(f"{target} exists already. Choose another name, or another folder by --into.")
    into.mkdir(parents=True, exist_ok=True)
    unfinished = into / f".{name}.{secrets.token_hex(4)}.tmp"
    try:
        for place, text in _files(kind, name).items():
            path = unfinished / place
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        unfinished.rename(target)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return target


def _check(kind: str, name: str, taken: Iterable[str]) -> None:
    """Raise StudyError for a name that a package of this kind cannot have."""
    names = _names(kind, name)
    module = names["module"]
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise StudyError(
            f"'{name}' cannot name a package. Use at most {_LONGEST_NAME} small letters, digits and single - or _, "
            "beginning with a letter, such as my-method."
        )
    if iskeyword(module) or module == "tests":
        raise StudyError(f"'{name}' means something in Python packages already. Use another, such as my-{name}.")
    if name in taken:
        raise StudyError(f"the {kind} {name} exists already. Use another name, such as my-{name}.")
    if module in sys.stdlib_module_names or find_spec(module) is not None:
        raise StudyError(f"there is already a Python package called {module}. Use another name, such as my-{name}.")
    code = Template(_text(f"{kind}.py")).safe_substitute(dict.fromkeys(names, ""))
    used = [word for word in (names["class_name"], names["factory"]) if re.search(rf"\b{word}\b", code)]
    if used:
        raise StudyError(f"the code of such a package uses the name {used[0]} already. Use another, such as my-{name}.")


def _names(kind: str, name: str) -> dict[str, str]:
    """What stands for the placeholders of the templates."""
    module = name.replace("-", "_")
    class_name = "".join(word.capitalize() for word in module.split("_"))
    return {
        "kind": kind,
        "name": name,
        "module": module,
        "class_name": class_name,
        "factory": KINDS[kind].format(module=module, class_name=class_name),
        "group": f"fewshot_bench.{kind}{'es' if kind.endswith('s') else 's'}",
    }


def _files(kind: str, name: str) -> dict[str, str]:
    """The content of every file by its place in the package."""
    names = _names(kind, name)
    places = {
        "pyproject.toml": "pyproject.toml",
        "README.md": f"{kind}.md",
        f"{names['module']}/__init__.py": f"{kind}.py",
        f"tests/test_{names['module']}.py": f"{kind}_test.py",
    }
    texts = {place: Template(_text(template)).substitute(names) for place, template in places.items()}
    return {**texts, f"{names['module']}/py.typed": ""}


def _text(template: str) -> str:
    return (_TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")

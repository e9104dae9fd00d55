"""Import modules of a user's own from their source, never from the bytecode that Python keeps beside it.

Python takes kept bytecode for that of a source of the same size and the same second. An edit within a second, or a copy
that keeps times, would be run as it was and recorded as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType

_INSTALLED = ("site-packages", "dist-packages")
_OF_OTHERS = (Path(os.__file__).parent, Path(__file__).parent)


def load_from_source() -> None:
    """From now on, in this process, whatever is neither of Python nor installed is compiled from its source."""
    if not any(isinstance(finder, _OwnModules) for finder in sys.meta_path):
        sys.meta_path.insert(0, _OwnModules())


def loaded_source(module: str, file: Path) -> bytes:
    """The source that a module was loaded from, though its file may have changed since; otherwise the file's content.

    Raises:
        OSError: it cannot be read.
    """
    loader = getattr(getattr(sys.modules.get(module), "__spec__", None), "loader", None)
    if isinstance(loader, _FromSource) and Path(loader.path) == file and loader.content is not None:
        return loader.content
    return file.read_bytes()


class _OwnModules(MetaPathFinder):
    """Asks the other finders, and has what they find loaded from its source."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        for finder in sys.meta_path:
            spec = finder.find_spec(fullname, path, target) if finder is not self else None
            if spec is not None:
                if type(spec.loader) is SourceFileLoader and _is_own(Path(spec.loader.path)):
                    spec.loader = _FromSource(spec.loader.name, spec.loader.path)
                return spec
        return None


class _FromSource(SourceFileLoader):
    content: bytes | None = None

    def get_code(self, fullname: str) -> CodeType:
        self.content = self.get_data(self.path)
        code: CodeType = self.source_to_code(self.content, self.path)
        return code


def _is_own(file: Path) -> bool:
    return not any(folder in file.parents for folder in _OF_OTHERS) and not any(
        part in _INSTALLED for part in file.parts
    )

"""Build learn2learn 0.2.0 and install it into a folder, for the tests that need it: `tox -e learn2learn`.

Its release has C files that Cython made for Python 3.10 and older; later versions of Python need new ones. So the
source is unpacked, these files are deleted, and Cython before 3 makes them again. Run it with a Python that has
"cython<3", "setuptools<70", "numpy" and "wheel", and with a C compiler.

    python tools/install_learn2learn.py FOLDER
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Sequence
from pathlib import Path

RELEASE = "learn2learn==0.2.0"
SHA256 = "69f1d7cb0d0a6be7a2c6ad8e83e2ebbe70fb05e51d61e45e63078b40c75ea419"
"""Digest of the source, learn2learn-0.2.0.tar.gz."""
IMPORTED = ("gym", "gym-notices", "cloudpickle")
"""What `import learn2learn` needs besides the packages of fewshot-bench; qpth and gsutil are never imported."""


def install(folder: Path) -> None:
    """Build the wheel and install it with what it imports; a folder that has it already stays as it is.

    Raises:
        SystemExit: a step failed; the message says which.
    """
    if (folder / "learn2learn" / "__init__.py").is_file():
        return
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        _run("downloading its source (is the package index reachable?)", [*_PIP, "download", *_AS_SOURCE, str(work)])
        (archive,) = work.glob("learn2learn-*.tar.gz")
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != SHA256:
            sys.exit(f"{archive.name} has SHA-256 {found}, not {SHA256}. Nothing was built.")
        with tarfile.open(archive) as source:
            source.extractall(work, filter="data")
        (root,) = (path for path in work.iterdir() if path.is_dir())
        for stale in (root / "learn2learn" / "data").glob("*.c"):
            stale.unlink()
        build = [sys.executable, "setup.py", "-q", "build_ext", "bdist_wheel", "-d", str(work)]
        _run("building it (is there a C compiler?)", build, root)
        (wheel,) = work.glob("*.whl")
        packages = ["--no-deps", "--target", str(folder), *IMPORTED, str(wheel)]
        _run("installing it", [*_PIP, "install", *packages])


_PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "-q")
_AS_SOURCE = ("--no-deps", "--no-binary", "learn2learn", "--no-build-isolation", RELEASE, "-d")


def _run(doing: str, command: Sequence[str], folder: Path | None = None) -> None:
    """Run a step; its output is shown only if it fails."""
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    result = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{result.stdout}{result.stderr}\nlearn2learn could not be installed: {doing} failed, see above.")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    install(Path(sys.argv[1]).absolute())

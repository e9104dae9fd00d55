"""Ctrl-C while the command line is still being imported."""

from __future__ import annotations

import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

INTERRUPTS_ITSELF = """
import importlib.abc, os, signal, sys

class Interrupting(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "{module}":
            os.kill(os.getpid(), signal.SIGINT)

sys.argv[1:] = ["run", "--help"]
sys.meta_path.insert(0, Interrupting())
signal.signal(signal.SIGINT, signal.default_int_handler)
from fewshot_bench.__main__ import main
main()
"""


@pytest.mark.parametrize("module", ["typer", "fewshot_bench.cli.main", "fewshot_bench.cli.run"])
def test_an_interruption_of_the_first_imports_is_no_traceback(module):
    code = INTERRUPTS_ITSELF.format(module=module)
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")

from __future__ import annotations

import importlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fewshot_bench.cli.main import exit_code
from fewshot_bench.errors import StudyError

pytest.importorskip("ray", reason="the extra ray is not installed")

RUN = ("run", "--backbone", "conv4_32", "--base-loss", "none", "--shots", "1", "--runs", "1", "--engine", "ray")
LONG_ENOUGH = 300
"""Seconds after which something is not going to happen."""

needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="processes are looked up in /proc")


def test_without_ray_its_engine_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "fewshot_bench.engine.ray_cluster", raising=False)
    with pytest.raises(StudyError, match=r"pip install 'fewshot-bench\[ray\]'"):
        importlib.import_module("fewshot_bench.engine.ray_cluster")


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--engine", "local", "--workers", "2"), "--workers is for --engine ray."),
        (("--engine", "dask"), "--engine takes local or ray, not 'dask'."),
        (("--ray-address", "head"), "--ray-address takes HOST:PORT or auto, not 'head'."),
        (("--device", "cuda:1"), "--engine ray chooses among GPUs itself. Use --device cuda, not cuda:1."),
        (("--device", "cuda", "--gpus-per-worker", "0"), "--device cuda needs --gpus-per-worker above 0"),
        (("--gpus-per-worker", "1.5"), "--gpus-per-worker takes a part of one GPU or a whole number, not 1.5."),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, sentence, tmp_path, capsys):
    assert exit_code([*RUN, "--results", str(tmp_path), *options]) == 2
    assert sentence in capsys.readouterr().err


def test_an_address_where_nobody_answers_is_told_at_once(tmp_path, capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        assert exit_code([*RUN, "--results", str(tmp_path), "--ray-address", f"127.0.0.1:{port}"]) == 2
    assert f"error: no Ray cluster answers at '127.0.0.1:{port}'" in capsys.readouterr().err


@pytest.fixture
def other_server() -> Iterator[int]:
    """A port where somebody answers who has never heard of Ray."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer() -> None:
            connection, _ = server.accept()
            with connection:
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        thread.join()


def test_another_server_is_not_taken_for_a_cluster(other_server, tmp_path, capsys):
    assert exit_code([*RUN, "--results", str(tmp_path), "--ray-address", f"127.0.0.1:{other_server}"]) == 2
    assert f"the server at '127.0.0.1:{other_server}' is not a Ray cluster" in capsys.readouterr().err


@pytest.mark.slow
@needs_proc
def test_sigterm_leaves_parts_but_neither_leases_nor_processes(tmp_path, home):
    results, mark = tmp_path / "results", f"FEWSHOT_BENCH_HOME={home}"
    options = ["--adapt", "finetune", "--set", "epochs=1", "--episodes", "3000", "--chunk", "5", "--workers", "1"]
    command = [sys.executable, "-m", "fewshot_bench", *RUN, *options, "--results", str(results), "--json"]
    own = {**os.environ, "HOME": str(tmp_path)}  # where Ray leaves a token
    with subprocess.Popen(command, env=own, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        wait_until(lambda: any(results.rglob("*.parquet")) or process.poll() is not None)
        assert len(processes_with(mark)) > 1
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=LONG_ENOUGH)
    assert (process.returncode, out) == (128 + signal.SIGTERM, "")
    assert "run the same command again" in err
    assert any(results.rglob("*.parquet"))
    assert not list(results.rglob("*.lease"))
    wait_until(lambda: not processes_with(mark))


def wait_until(is_so) -> None:
    began = time.monotonic()
    while not is_so():
        assert time.monotonic() - began < LONG_ENOUGH
        time.sleep(0.1)


def processes_with(mark: str) -> list[int]:
    """Numbers of the processes that were started with a setting in their environment."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                if mark.encode() in (folder / "environ").read_bytes().split(b"\0"):
                    found.append(int(folder.name))
            except OSError:
                continue
    return found

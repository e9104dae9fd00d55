"""A step of building learn2learn that fails says which, and leaves nothing half installed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import install_learn2learn


def failing_at(step, monkeypatch, written=b""):
    """Let commands succeed until one whose arguments hold `step`."""

    def run(command, **options):
        if step in command:
            return subprocess.CompletedProcess(command, 1, "", "No matching distribution")
        if "download" in command:
            (Path(command[-1]) / "learn2learn-0.2.0.tar.gz").write_bytes(written)
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", run)


def test_a_failing_download_is_shown_with_what_pip_said(tmp_path, monkeypatch):
    failing_at("download", monkeypatch)
    with pytest.raises(SystemExit) as error:
        install_learn2learn.install(tmp_path / "packages")
    assert "No matching distribution" in str(error.value)
    assert "package index" in str(error.value)


def test_another_archive_is_never_built(tmp_path, monkeypatch):
    failing_at("setup.py", monkeypatch, b"not the release")
    with pytest.raises(SystemExit) as error:
        install_learn2learn.install(tmp_path / "packages")
    assert install_learn2learn.SHA256 in str(error.value)
    assert not (tmp_path / "packages").exists()


def test_what_is_installed_already_stays(tmp_path, monkeypatch):
    failing_at("download", monkeypatch)
    (tmp_path / "learn2learn").mkdir()
    (tmp_path / "learn2learn" / "__init__.py").touch()
    install_learn2learn.install(tmp_path)

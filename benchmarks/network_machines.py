"""Machines with kernels of their own on one host: User-mode Linux from Debian, with NFS between them."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

PACKAGES = (
    *("user-mode-linux", "busybox-static", "kmod", "libkmod2", "nfs-kernel-server", "nfs-common", "rpcbind"),
    *("libtirpc3", "libtirpc-common", "libevent-core-2.1-7", "libnfsidmap1", "libkeyutils1", "libwrap0"),
)
"""Of Debian 12; they are unpacked, not installed."""
_HERE = Path(__file__).resolve().parent
_MOST_MAPPINGS = Path("/proc/sys/vm/max_map_count")
_MAPPINGS = 4_000_000  # every page of a process of such a machine is one of the host's
_NETWORK = "10.77.0"
SERVER = f"{_NETWORK}.10"
_LONGEST_BOOT = 120.0  # seconds
_numbers = itertools.count()


@dataclass
class Job:
    """Something that a machine was asked to do.

    Attributes:
        desk: the folder of requests of its machine.
        name: of the request.
    """

    desk: Path
    name: str

    @property
    def code(self) -> int | None:
        """Its exit code; None while it runs."""
        with suppress(FileNotFoundError):
            return int((self.desk / f"{self.name}.code").read_text())
        return None

    @property
    def process(self) -> int:
        """The number of its process on its machine; waits until there is one."""
        while not (self.desk / f"{self.name}.process").exists():
            time.sleep(0.02)
        return int((self.desk / f"{self.name}.process").read_text())

    @property
    def words(self) -> str:
        """What it has printed."""
        with suppress(FileNotFoundError):
            return (self.desk / f"{self.name}.log").read_text(errors="replace")
        return ""

    def ends(self, timeout: float = 180.0) -> int | None:
        """Wait for its exit code; None if it takes too long."""
        deadline = time.monotonic() + timeout
        while self.code is None and time.monotonic() < deadline:
            time.sleep(0.05)
        return self.code


class Machine:
    """One machine, on or off.

    Args:
        name: its host's name.
        number: the last of its address.
        folder: of the laboratory: `tools`, `disk` and a desk for each machine.
        memory: as User-mode Linux takes it.
    """

    def __init__(self, name: str, number: int, folder: Path, memory: str) -> None:
        self.name, self.number, self.memory = name, number, memory
        self.role = "server" if name == "server" else "client"
        self._folder, self._desk = folder, folder / f"desk-{name}"
        self._process: subprocess.Popen[bytes] | None = None

    def boot(self) -> None:
        """Switch it on, and wait until it takes requests.

        Raises:
            TimeoutError: it does not.
        """
        self._desk.mkdir(exist_ok=True)
        for path in self._desk.iterdir():
            path.unlink()
        told = {
            **{"mem": self.memory, "root": "/dev/root", "rootfstype": "hostfs", "rootflags": "/"},
            **{"init": _HERE / "network_boot.sh", "con": "null", "con0": "null,fd:1", "selinux": "0"},
            **{"uml_dir": self._folder / "run", "umid": self.name},
            "eth0": f"mcast,02:00:00:00:00:{self.number},239.192.168.77,11077,0",
            **{"TOOLS": self._folder / "tools", "DESK": self._desk, "AGENT": _HERE / "network_agent.py"},
            **{"PYTHON": sys.executable, "SOURCE": _HERE.parent, "ROLE": self.role},
            **{"NAME": self.name, "ADDRESS": f"{_NETWORK}.{self.number}"},
            **({"ubd0": self._folder / "disk"} if self.role == "server" else {}),
        }
        with (self._folder / f"console-{self.name}.txt").open("ab") as console:
            self._process = subprocess.Popen(
                [self._folder / "tools/usr/bin/linux.uml", "ro", "quiet", *(f"{key}={told[key]}" for key in told)],
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                start_new_session=True,
            )
        deadline = time.monotonic() + _LONGEST_BOOT
        while not (self._desk / "ready").exists():
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise TimeoutError(f"{self.name} does not start: see {console.name}")
            time.sleep(0.1)

    def off(self) -> None:
        """Cut its power."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def start(self, arguments: Sequence[str], environment: Mapping[str, str]) -> Job:
        """Start a command of fewshot-bench."""
        return self._asked({"arguments": list(arguments), "environment": dict(environment)})

    def shell(self, command: str, timeout: float = 120.0) -> str:
        """What a command prints.

        Raises:
            RuntimeError: it fails, or does not end.
        """
        job = self._asked({"shell": command})
        if job.ends(timeout) != 0:
            raise RuntimeError(f"{self.name}: {command} ended with {job.code}: {job.words}")
        return job.words

    def _asked(self, request: Mapping[str, object]) -> Job:
        job = Job(self._desk, f"{next(_numbers):06d}")
        unfinished = self._desk / f"{job.name}.unfinished"
        unfinished.write_text(json.dumps(request))
        unfinished.rename(self._desk / f"{job.name}.request")
        return job


@contextmanager
def laboratory(folder: Path) -> Iterator[tuple[Machine, list[Machine]]]:
    """A server with an empty disk, switched on, and two machines that are off; all are off in the end.

    Args:
        folder: to work in, without white space in its path; the packages are fetched if they are not there.
    """
    _unpack(folder)
    (folder / "run").mkdir(exist_ok=True)
    with (folder / "disk").open("wb") as disk:
        disk.truncate(2 * 1024**3)
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", folder / "disk"], check=True)
    before = _MOST_MAPPINGS.read_text()
    server = Machine("server", 10, folder, "384M")
    clients = [Machine("first", 11, folder, "2600M"), Machine("second", 12, folder, "2600M")]
    try:
        _MOST_MAPPINGS.write_text(str(_MAPPINGS))
        server.boot()
        yield server, clients
    finally:
        for machine in (*clients, server):
            machine.off()
        _MOST_MAPPINGS.write_text(before)


def _unpack(folder: Path) -> None:
    """Fetch the packages and unpack them into one tree, in which /bin, /sbin and /lib are those of /usr."""
    tools, fetched = folder / "tools", folder / "packages"
    if tools.exists():
        return
    fetched.mkdir(parents=True, exist_ok=True)
    subprocess.run(["apt-get", "download", *PACKAGES], cwd=fetched, check=True, stdout=subprocess.DEVNULL)
    unpacked = folder / "unpacked"
    for package in sorted(fetched.glob("*.deb")):
        subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
    for name in ("bin", "sbin", "lib"):
        if (unpacked / name).exists():
            (unpacked / "usr" / name).mkdir(exist_ok=True)
            subprocess.run(["cp", "-a", f"{unpacked / name}/.", unpacked / "usr" / name], check=True)
            subprocess.run(["rm", "-r", unpacked / name], check=True)
    (unpacked / "usr/lib/modules").mkdir(exist_ok=True)
    for modules in (unpacked / "usr/lib/uml/modules").iterdir():
        modules.rename(unpacked / "usr/lib/modules" / modules.name)
    unpacked.rename(tools)

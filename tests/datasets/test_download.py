"""Against a server on this machine that misbehaves on demand: each request takes the next answer of its script."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import fewshot_bench
from fewshot_bench.datasets import fetch as fetch_module
from fewshot_bench.datasets.fetch import PartialFile, RemoteFile, fetch, zenodo_files
from fewshot_bench.errors import DatasetError

CONTENT = random.Random(0).randbytes(300_000)
OTHER_CONTENT = random.Random(1).randbytes(300_000)


def digest(content, algorithm="md5"):
    return f"{algorithm}:{hashlib.new(algorithm, content).hexdigest()}"


class Asked(NamedTuple):
    path: str
    range: str | None
    if_range: str | None


@dataclass
class Site:
    """What the server has, what it was asked, and how it is to answer; without a script it answers as it should."""

    content: bytes = CONTENT
    headers: dict[str, str] = field(default_factory=lambda: {"ETag": '"one"'})
    script: deque = field(default_factory=deque)
    asked: list[Asked] = field(default_factory=list)
    authorizations: list[str | None] = field(default_factory=list)
    gate: threading.Event = field(default_factory=threading.Event)
    address: str = ""

    @property
    def url(self):
        return f"{self.address}/data.zip"

    @property
    def ranges(self):
        return [asked.range for asked in self.asked]

    def file(self, **changes):
        facts = {"name": "data.zip", "url": self.url, "size": len(self.content), "digest": digest(self.content)}
        return RemoteFile(**facts | changes)


class Answering(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server.site
        site.asked.append(Asked(self.path, self.headers["Range"], self.headers["If-Range"]))
        site.authorizations.append(self.headers["Authorization"])
        self.close_connection = True
        answer = site.script.popleft() if site.script else send
        answer(self, site)

    def begin(self, status, headers):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_):
        pass


# The answers


def send(handler, site, *, upto=None, then=lambda handler, site: None, has_ranges=True, guards=True, **changes):
    """Answer as a good server does, `upto` so many bytes; header changes to None leave a header out."""
    validator = site.headers.get("ETag") or site.headers.get("Last-Modified")
    wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers["Range"] or "")
    guarded = guards and handler.headers["If-Range"] not in (None, validator)
    start = int(wanted[1]) if wanted and has_ranges and not guarded else None
    if start is not None and start >= len(site.content):
        return refuse(416, **{"Content-Range": f"bytes */{len(site.content)}"})(handler, site)
    body = site.content[start or 0 :]
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(len(body)), **site.headers}
    if start is not None:
        headers["Content-Range"] = f"bytes {start}-{len(site.content) - 1}/{len(site.content)}"
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    kept = {name: value for name, value in headers.items() if value is not None}
    handler.begin(200 if start is None else 206, kept)
    handler.wfile.write(body[:upto])
    then(handler, site)


def drop_after(count, **changes):
    return partial(send, upto=count, **changes)


def wait_for_the_gate(handler, site):
    site.gate.wait(20)


def reset(handler, site):
    """Cut the connection hard, as a failing network does."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.rfile, handler.wfile = open(os.devnull, "rb"), open(os.devnull, "wb")  # noqa: SIM115  # closed by the server


def hang_up(handler, site):
    """Close without a word."""


def refuse(status, body=b"", **headers):
    return lambda handler, site: (
        handler.begin(status, {"Content-Length": str(len(body)), **headers}),
        handler.wfile.write(body),
    )


def redirect(to, status=302):
    return refuse(status, Location=to)


def chunked(body, *, ends=True, piece_size=10_000):
    def answer(handler, site):
        handler.begin(200, {"Transfer-Encoding": "chunked", **site.headers})
        for start in range(0, len(body), piece_size):
            piece = body[start : start + piece_size]
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        handler.wfile.write(b"0\r\n\r\n" if ends else b"")

    return answer


def say(body, content_type="application/octet-stream"):
    return refuse(200, body, **{"Content-Type": content_type})


# The fixtures


@contextmanager
def serving(site):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
    server.site, server.daemon_threads, server.block_on_close = site, True, False
    server.handle_error = lambda *_: None  # clients that vanish are what is tested
    site.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=partial(server.serve_forever, poll_interval=0.01))
    thread.start()
    try:
        yield site
    finally:
        site.gate.set()
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def site():
    with serving(Site()) as site:
        yield site


@pytest.fixture(autouse=True)
def no_proxy_and_no_waiting(monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.setenv(name, "127.0.0.1")
    monkeypatch.setattr(fetch_module, "RETRY_WAITS", (0.0, 0.0, 0.0))


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "downloads"


class Watching:
    """Counts what each stage was told, and looks on at every advance."""

    def __init__(self, look=lambda count: None):
        self.counts: dict[str, int] = {}
        self.totals: dict[str, int] = {}
        self._look = look

    @contextmanager
    def step(self, description, total, *, unit=""):
        self.totals[description] = total

        def advance(amount=1, note=""):
            self.counts[description] = self.counts.get(description, 0) + amount
            self._look(self.counts[description])

        yield SimpleNamespace(advance=advance)


def refused(file, folder):
    """The one line with which a fetch fails; nothing stands under the final name."""
    with pytest.raises(DatasetError) as caught:
        fetch(file, folder)
    assert not (folder / file.name).exists()
    message = str(caught.value)
    assert message.isprintable()
    return message


def part_of(folder):
    return folder / ".data.zip.part"


def left_in(folder):
    return sorted(path.name for path in folder.iterdir())


def break_off(site, folder, count=100_000, **changes):
    """A transfer that ends for good after so many bytes."""
    file = site.file(**changes)
    site.script += [drop_after(count), hang_up, hang_up, hang_up, hang_up]
    message = refused(file, folder)
    site.script.clear()
    site.asked.clear()
    return message


# A good server


@pytest.mark.parametrize("algorithm", ["md5", "sha256"])
def test_a_file_arrives_whole_and_nothing_else_stays_but_the_lock(site, folder, algorithm):
    path = fetch(site.file(digest=digest(CONTENT, algorithm)), folder)
    assert path == folder / "data.zip"
    assert path.read_bytes() == CONTENT
    assert left_in(folder) == [".data.zip.lock", "data.zip"]


def test_digits_of_a_digest_may_be_capitals(site, folder):
    assert fetch(site.file(digest="MD5:" + digest(CONTENT)[4:].upper()), folder).read_bytes() == CONTENT


def test_each_byte_is_one_unit_of_progress(site, folder):
    watching = Watching()
    fetch(site.file(), folder, progress=watching)
    assert watching.totals["fetching data.zip"] == len(CONTENT)
    assert watching.counts["fetching data.zip"] == len(CONTENT)


def test_no_byte_is_under_the_final_name_before_the_last(site, folder):
    site.script += [drop_after(50_000), drop_after(60_000)]
    seen = []
    fetch(site.file(), folder, progress=Watching(lambda count: seen.append((folder / "data.zip").exists())))
    assert len(seen) > 3
    assert not any(seen)


def test_the_bytes_are_on_the_disk_before_they_get_the_final_name(site, folder, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        done.append(("fsync", os.fstat(descriptor).st_size))
        fsync(descriptor)

    def note_replace(source, target):
        done.append(("replace", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    fetch(site.file(), folder)
    assert done[-2:] == [("fsync", len(CONTENT)), ("replace", "data.zip")]


@pytest.mark.parametrize("facts", [{}, {"digest": None}, {"size": None}, {"size": None, "digest": None}])
def test_a_file_that_is_there_is_not_asked_for_again(site, folder, facts):
    fetch(site.file(**facts), folder)
    site.asked.clear()
    assert fetch(site.file(**facts), folder).read_bytes() == CONTENT
    assert site.asked == []


@pytest.mark.parametrize(
    ("stuck", "facts"),
    [(CONTENT[:1000], {}), (CONTENT[:1000], {"digest": None}), (bytes(300_000), {}), (bytes(300_000), {"size": None})],
)
def test_a_half_or_wrong_file_under_the_final_name_does_not_stick(site, folder, stuck, facts):
    folder.mkdir()
    (folder / "data.zip").write_bytes(stuck)
    assert fetch(site.file(**facts), folder).read_bytes() == CONTENT


def test_a_wrong_file_stays_until_the_right_one_is_verified(site, folder):
    folder.mkdir()
    (folder / "data.zip").write_bytes(b"precious")
    site.script += [say(bytes(len(CONTENT)))]
    with pytest.raises(DatasetError, match="md5"):
        fetch(site.file(), folder)
    assert (folder / "data.zip").read_bytes() == b"precious"


def test_a_folder_under_the_final_name_is_one_line(site, folder):
    (folder / "data.zip").mkdir(parents=True)
    with pytest.raises(DatasetError, match="is a folder"):
        fetch(site.file(), folder)


@pytest.mark.parametrize("facts", [{}, {"size": None}, {"size": None, "digest": None}])
@pytest.mark.parametrize("answer", [chunked(CONTENT), partial(send, Content_Length=None)])
def test_a_server_need_not_announce_the_length(site, folder, facts, answer):
    site.script += [answer]
    assert fetch(site.file(**facts), folder).read_bytes() == CONTENT


def test_the_server_has_no_say_in_the_name(site, folder):
    site.script += [partial(send, Content_Disposition='attachment; filename="../../evil.sh"')]
    fetch(site.file(), folder)
    assert left_in(folder) == [".data.zip.lock", "data.zip"]
    assert left_in(folder.parent) == ["downloads"]


# Going on


@pytest.mark.parametrize("headers", [{"ETag": '"one"'}, {"Last-Modified": "Wed, 01 Mar 2023 10:00:00 GMT"}])
def test_a_dropped_connection_goes_on_where_it_broke_off(site, folder, headers):
    site.headers = headers
    site.script += [drop_after(100_000)]
    watching = Watching()
    assert fetch(site.file(), folder, progress=watching).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=100000-"]
    assert site.asked[1].if_range == next(iter(headers.values()))
    assert watching.counts["fetching data.zip"] == len(CONTENT)


def test_a_reset_connection_is_survived(site, folder):
    site.script += [drop_after(100_000, then=reset)]
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert len(site.asked) == 2


@pytest.mark.slow
def test_a_silent_connection_is_survived(site, folder, monkeypatch):
    monkeypatch.setattr(fetch_module, "TIMEOUT", 0.3)
    site.script += [wait_for_the_gate, drop_after(100_000, then=wait_for_the_gate)]
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert len(site.asked) >= 3
    assert site.ranges[:2] == [None, None]


def test_a_server_that_stays_silent_is_left(site, folder, monkeypatch):
    monkeypatch.setattr(fetch_module, "TIMEOUT", 0.1)
    monkeypatch.setattr(fetch_module, "RETRY_WAITS", ())
    site.script += [drop_after(100_000, then=wait_for_the_gate)]
    message = refused(site.file(), folder)
    assert "no answer for 0.1 seconds" in message
    assert "100,000 of 300,000 bytes are here" in message


def test_a_broken_chunked_body_goes_on(site, folder):
    site.script += [chunked(CONTENT[:100_000], ends=False)]
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=100000-"]


@pytest.mark.slow
def test_patience_lasts_as_long_as_bytes_arrive(site, folder):
    site.script += [drop_after(30_000)] * 9
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert len(site.asked) == 10 > 1 + len(fetch_module.RETRY_WAITS)


def test_what_breaks_off_for_good_is_kept_and_the_line_says_so(site, folder):
    message = break_off(site, folder)
    assert "100,000 of 300,000 bytes are here; run the same command again to resume" in message
    assert part_of(folder).read_bytes() == CONTENT[:100_000]
    watching = Watching()
    assert fetch(site.file(), folder, progress=watching).read_bytes() == CONTENT
    assert site.asked == [Asked("/data.zip", "bytes=100000-", '"one"')]
    assert watching.counts["fetching data.zip"] == len(CONTENT)
    assert left_in(folder) == [".data.zip.lock", "data.zip"]


def test_a_server_that_gives_nothing_is_left_after_a_few_attempts(site, folder):
    site.script += [hang_up] * 10
    assert "Nothing of it is here yet; run the same command again later" in refused(site.file(), folder)
    assert len(site.asked) == 1 + len(fetch_module.RETRY_WAITS)


def test_a_stopped_transfer_is_kept_and_the_line_says_so(site, folder):
    def stop(count):
        if count >= 1000:
            raise KeyboardInterrupt

    site.script += [drop_after(100_000, then=wait_for_the_gate)]
    with pytest.raises(KeyboardInterrupt, match=r"was stopped. [\d,]+ of 300,000 bytes are here; run the same command"):
        fetch(site.file(), folder, progress=Watching(stop))
    here = part_of(folder).stat().st_size
    assert here >= 1000
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == [None, f"bytes={here}-"]


def test_a_full_disk_is_an_oserror_and_what_arrived_is_kept(site, folder, monkeypatch):
    append, pieces = PartialFile.append, itertools.count()

    def append_until_full(part, piece, stream):
        if next(pieces) > 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        append(part, piece, stream)

    site.script += [drop_after(100_000)]
    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "append", append_until_full)
        with pytest.raises(OSError, match="No space left"):
            fetch(site.file(), folder)
    assert not (folder / "data.zip").exists()
    here = part_of(folder).stat().st_size
    assert here > 0
    site.script.clear()
    site.asked.clear()
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == [f"bytes={here}-"]


def test_a_whole_part_needs_no_server(site, folder, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(PartialFile, "become", lambda part, target: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            fetch(site.file(), folder)
    assert not (folder / "data.zip").exists()
    site.asked.clear()
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.asked == []


@pytest.mark.slow
@settings(max_examples=25, deadline=None)
@given(cuts=st.lists(st.integers(512, 4000), max_size=8), facts=st.sampled_from([{}, {"size": None, "digest": None}]))
def test_wherever_connections_break_each_byte_is_fetched_once(tmp_path_factory, cuts, facts):
    content = CONTENT[:20_000]
    starts = [start for start in itertools.accumulate(cuts, initial=0) if start < len(content)]
    with serving(Site(content)) as site:
        site.script += [drop_after(cut) for cut in cuts]
        path = fetch(site.file(**facts), tmp_path_factory.mktemp("cuts"))
    assert path.read_bytes() == content
    assert site.ranges == [None, *(f"bytes={start}-" for start in starts[1:])]


# Not going on with the wrong bytes


def test_a_server_without_ranges_starts_anew(site, folder):
    break_off(site, folder)
    site.script += [partial(send, has_ranges=False)]
    watching = Watching()
    assert fetch(site.file(), folder, progress=watching).read_bytes() == CONTENT
    assert site.ranges == ["bytes=100000-"]
    assert watching.counts["fetching data.zip"] == len(CONTENT)


def test_a_server_that_always_starts_anew_and_breaks_off_is_left(site, folder):
    site.script += [drop_after(100_000, has_ranges=False)] * 20
    assert "100,000 of 300,000 bytes are here" in refused(site.file(), folder)
    assert len(site.asked) == 1 + len(fetch_module.RETRY_WAITS)


@pytest.mark.slow
@pytest.mark.parametrize("guards", [True, False])
@pytest.mark.parametrize("name", ["ETag", "Last-Modified"])
def test_two_versions_are_never_joined(site, folder, guards, name):
    site.headers = {name: "Wed, 01 Mar 2023 10:00:00 GMT"}
    break_off(site, folder, size=None, digest=None)
    site.content, site.headers = OTHER_CONTENT, {name: "Thu, 02 Mar 2023 10:00:00 GMT"}
    site.script += [partial(send, guards=guards)]
    assert fetch(site.file(size=None, digest=None), folder).read_bytes() == OTHER_CONTENT


def test_another_range_than_asked_for_starts_anew(site, folder):
    break_off(site, folder)
    site.script += [partial(send, Content_Range="bytes 50000-299999/300000")]
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == ["bytes=100000-", None]


@pytest.mark.slow
@pytest.mark.parametrize("content_range", [None, "bytes", "bytes 100000-299999/299999", "items 1-2/3", "bytes x-y/z"])
def test_a_range_of_something_else_starts_anew(site, folder, content_range):
    break_off(site, folder, size=None)
    site.script += [partial(send, Content_Range=content_range)]
    assert fetch(site.file(size=None), folder).read_bytes() == CONTENT
    assert site.ranges == ["bytes=100000-", None]


def test_a_range_that_ends_early_is_followed_by_the_rest(site, folder):
    break_off(site, folder, size=None, digest=None)
    site.script += [drop_after(50_000, Content_Length="50000", Content_Range="bytes 100000-149999/300000")]
    assert fetch(site.file(size=None, digest=None), folder).read_bytes() == CONTENT
    assert site.ranges == ["bytes=100000-", "bytes=150000-"]


@pytest.mark.slow
def test_an_unsatisfiable_range_starts_anew(site, folder):
    break_off(site, folder)
    site.script += [refuse(416)]
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == ["bytes=100000-", None]


def test_a_server_that_refuses_every_range_is_left(site, folder):
    site.script += [refuse(416)] * 20
    assert "broke off" in refused(site.file(), folder)
    assert len(site.asked) == 1 + len(fetch_module.RETRY_WAITS)


def test_an_unsatisfiable_range_that_tells_another_size_is_another_file(site, folder):
    break_off(site, folder)
    site.script += [refuse(416, **{"Content-Range": "bytes */99999"})]
    assert "should have 300,000 bytes" in (message := refused(site.file(), folder))
    assert "99,999" in message


def test_a_part_larger_than_the_whole_starts_anew(site, folder):
    break_off(site, folder)
    part_of(folder).write_bytes(bytes(len(CONTENT) + 1))
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == [None]


@pytest.mark.slow
def test_a_part_of_another_address_or_digest_starts_anew(site, folder):
    break_off(site, folder)
    assert fetch(site.file(url=f"{site.address}/elsewhere"), folder).read_bytes() == CONTENT
    assert site.ranges == [None]
    (folder / "data.zip").unlink()
    break_off(site, folder, digest=digest(b"old release"))
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == [None]


@pytest.mark.slow
@pytest.mark.parametrize("damage", [b"", b"{", b"[1]", b"{}", b'{"url": 3}', b"\xff", b"[" * 5000, None])
def test_a_damaged_note_of_the_origin_starts_anew(site, folder, damage):
    break_off(site, folder)
    note = folder / ".data.zip.part.json"
    facts = json.loads(note.read_bytes())
    note.write_bytes(json.dumps(facts | {"etag": 3}).encode() if damage is None else damage)
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == [None]


@pytest.mark.slow
@pytest.mark.parametrize("headers", [{}, {"ETag": 'W/"one"'}, {"ETag": '"one\u00e4"'}])
def test_without_validator_only_a_digest_allows_to_go_on(site, folder, headers):
    site.headers = headers
    assert "the same command starts again" in break_off(site, folder, digest=None)
    assert fetch(site.file(digest=None), folder).read_bytes() == CONTENT
    assert site.asked == [Asked("/data.zip", None, None)]
    (folder / "data.zip").unlink()
    break_off(site, folder)
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.asked == [Asked("/data.zip", "bytes=100000-", None)]


# Wrong content


def test_a_wrong_digest_deletes_what_came_and_shows_both(site, folder):
    wrong = bytes(len(CONTENT))
    site.script += [say(wrong)]
    message = refused(site.file(), folder)
    assert digest(CONTENT) in message
    assert digest(wrong) in message
    assert left_in(folder) == [".data.zip.lock"]
    assert fetch(site.file(), folder).read_bytes() == CONTENT


def test_damage_in_the_kept_part_is_found(site, folder):
    break_off(site, folder)
    part_of(folder).write_bytes(bytes(100_000))
    assert "it was deleted" in refused(site.file(), folder)
    assert fetch(site.file(), folder).read_bytes() == CONTENT


@pytest.mark.parametrize("length", [299_999, 300_001, 12])
def test_another_announced_size_is_refused_before_the_first_byte(site, folder, length):
    site.script += [say(bytes(length))]
    assert f"should have 300,000 bytes, but {site.url} has {length:,}" in refused(site.file(digest=None), folder)
    assert left_in(folder) == [".data.zip.lock"]


def test_a_chunked_body_that_is_too_short_is_another_file(site, folder):
    site.script += [chunked(CONTENT[:-1])]
    assert "300,000 bytes" in (message := refused(site.file(digest=None), folder))
    assert "299,999" in message
    assert left_in(folder) == [".data.zip.lock"]


@pytest.mark.parametrize("answer", [chunked(CONTENT + b"!"), partial(send, Content_Length=None)])
def test_a_body_that_does_not_end_where_it_should_is_refused(site, folder, answer):
    site.script += [answer]
    site.content = CONTENT + b"!"
    message = refused(site.file(size=len(CONTENT), digest=None), folder)
    assert "at most 300,000 bytes" in message
    assert left_in(folder) == [".data.zip.lock"]


def test_a_body_shorter_than_announced_is_a_broken_transfer(site, folder):
    file = site.file(digest=None)
    site.content = CONTENT[:200_000]
    site.script += [partial(send, Content_Length="300000")] + [hang_up] * 4
    assert "200,000 of 300,000 bytes are here" in refused(file, folder)


def test_a_body_without_length_that_ends_early_is_a_broken_transfer(site, folder):
    site.script += [drop_after(100_000, Content_Length=None)]
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=100000-"]


@pytest.mark.slow
@pytest.mark.parametrize("length", ["", "-5", "many", "9" * 5000])
def test_a_nonsensical_length_counts_as_none(site, folder, length):
    site.script += [partial(send, Content_Length=length)]
    assert fetch(site.file(), folder).read_bytes() == CONTENT


@pytest.mark.slow
@pytest.mark.parametrize("answer", [say(b""), chunked(b""), partial(send, upto=0, Content_Length=None)])
def test_nothing_is_never_taken_for_a_file(site, folder, answer):
    site.script += [answer] * 10
    assert re.search("is empty|sent nothing", refused(site.file(size=None, digest=None), folder))


def test_an_empty_file_that_should_be_empty_is_one(site, folder):
    site.content = b""
    assert fetch(site.file(), folder).read_bytes() == b""


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer",
    [
        say(b"log in" + bytes(1000), "text/html; charset=utf-8"),
        say(b"", "application/xhtml+xml"),
        say(b"<!DOCTYPE html><p>quota exceeded"),
        say(b"\xef\xbb\xbf\r\n  <HTML lang=en>" + bytes(9000), "application/zip"),
        chunked(b"<html>"),
    ],
)
def test_a_web_page_is_not_a_file_and_spares_the_part(site, folder, answer):
    facts = {"size": None, "digest": None}
    break_off(site, folder, **facts)
    site.script += [answer]
    assert re.search("leads to a web page|is empty", refused(site.file(**facts), folder))
    assert part_of(folder).read_bytes() == CONTENT[:100_000]


def test_a_web_page_in_small_pieces_is_recognised(site, folder):
    site.script += [chunked(b"<!doctype html>", piece_size=1)]
    assert "leads to a web page" in refused(site.file(size=None, digest=None), folder)
    assert left_in(folder) == [".data.zip.lock"]


def test_a_web_page_that_was_asked_for_is_a_file(site, folder):
    site.script += [say(b"<html>", "text/html")]
    assert fetch(RemoteFile("page.html", site.url, None, None), folder).read_bytes() == b"<html>"


# Refusals


@pytest.mark.slow
@pytest.mark.parametrize("status", [500, 502, 503, 504, 429, 408])
def test_a_failure_that_passes_is_tried_again(site, folder, status):
    site.script += [refuse(status)] * len(fetch_module.RETRY_WAITS)
    assert fetch(site.file(), folder).read_bytes() == CONTENT


def test_a_failure_that_stays_is_one_line(site, folder):
    site.script += [refuse(503)] * 20
    assert "the server answers 503 Service Unavailable" in refused(site.file(), folder)
    assert len(site.asked) == 1 + len(fetch_module.RETRY_WAITS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("status", "line"),
    [
        (404, r"the link is dead \(404 Not Found\)"),
        (410, r"the link is dead \(410 Gone\)"),
        (401, r"access is refused \(401 Unauthorized\)"),
        (403, r"access is refused \(403 Forbidden\)"),
        (400, "answers 400 Bad Request"),
        (299, "answers 299"),
        (204, "answers 204 No Content"),
        (304, "answers 304 Not Modified"),
    ],
)
def test_a_refusal_is_one_line_and_is_not_tried_again(site, folder, status, line):
    site.script += [refuse(status, b"<html>")]
    message = refused(site.file(), folder)
    assert re.search(line, message)
    assert "fewshot-bench data import" in message
    assert len(site.asked) == 1


def test_a_dead_link_spares_the_part(site, folder):
    break_off(site, folder)
    site.script += [refuse(404)]
    refused(site.file(), folder)
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == ["bytes=100000-"] * 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "answer", [b"", b"\x1b[31m rubbish\r\n\r\n", b"HTTP/1.1 two hundred\r\n\r\n", b"\xff" * 70_000]
)
def test_a_server_that_speaks_no_http_is_one_line(site, folder, answer):
    site.script += [lambda handler, site: handler.wfile.write(answer)] * 10
    assert "broke off" in refused(site.file(), folder)


def test_no_server_at_all_is_one_line(folder):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "run the same command again later" in refused(
        RemoteFile("data.zip", f"http://127.0.0.1:{port}/", None, None), folder
    )


def test_a_host_that_does_not_exist_is_not_asked_twice(folder, monkeypatch):
    questions = []

    def resolve(*question, **_):
        questions.append(question)
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setenv("no_proxy", "*")
    message = refused(RemoteFile("data.zip", "http://dead.invalid/data.zip"), folder)
    assert "from dead.invalid broke off: Name or service not known. Get it elsewhere" in message
    assert len(questions) == 1


@pytest.mark.slow
@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_redirects_are_followed_and_going_on_goes_through_them(site, folder, status):
    break_off(site, folder)
    site.script += [redirect("/there", status)]
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.asked == [Asked(path, "bytes=100000-", '"one"') for path in ("/data.zip", "/there")]


@pytest.mark.parametrize("to", ["file://{}", "ftp://127.0.0.1/x", "data:text/plain,x", "file:{}", "gopher://x/\x1b[2J"])
def test_a_redirect_out_of_the_web_is_refused(site, folder, to, tmp_path):
    (tmp_path / "secret").write_bytes(CONTENT)
    site.script += [redirect(to.format(tmp_path / "secret"))]
    assert "which is not a web address" in refused(site.file(), folder)
    assert len(site.asked) == 1


def test_a_redirect_takes_no_credentials_to_another_server(site, folder):
    with serving(Site()) as elsewhere:
        site.script += [redirect(elsewhere.url)]
        with_password = site.url.replace("http://", "http://user:password@")
        assert fetch(site.file(url=with_password), folder).read_bytes() == CONTENT
    assert site.authorizations[0].startswith("Basic ")
    assert elsewhere.authorizations == [None]


@pytest.mark.parametrize("to", ["http://[::1", "http://127.0.0.1:port/", "http://.."])
def test_a_redirect_to_a_broken_address_is_one_line(site, folder, to):
    site.script += [redirect(to)]
    refused(site.file(), folder)
    assert len(site.asked) == 1


@pytest.mark.parametrize("to", [["/data.zip"] * 50, [f"/{number}" for number in range(50)], ["/a", "/b"] * 25])
def test_redirects_without_end_are_refused(site, folder, to):
    site.script += [redirect(place) for place in to]
    assert "redirects without end" in refused(site.file(), folder)
    assert len(site.asked) < 20


@pytest.mark.parametrize(
    "url", ["file:///etc/hostname", "ftp://x/y", "data:,x", "", "data.zip", "http://", "http://[", 1]
)
def test_only_web_addresses_are_opened(url):
    with pytest.raises(DatasetError, match="should come from an http or https address"):
        RemoteFile("data.zip", str(url))


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".hidden", "a/b", "/a", "../a", "a\\b", "C:a", "a\0", "a\nb", "a\x1b[2J", "\ud800", "x" * 201],
)
def test_only_plain_names_are_written(name):
    with pytest.raises(DatasetError, match="cannot be the name of a download") as caught:
        RemoteFile(name, "http://127.0.0.1/")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "facts", [{"size": -1}, {"digest": "abc"}, {"digest": "sha1:" + "0" * 40}, {"digest": "md5:" + "g" * 32}]
)
def test_facts_that_cannot_be_are_refused(facts):
    with pytest.raises(DatasetError):
        RemoteFile("data.zip", "http://127.0.0.1/", **facts)


def test_addresses_with_blanks_and_letters_of_any_script_are_asked_for(site, folder):
    fetch(site.file(url=f"{site.address}/données 1.zip?a=%20b#c"), folder)
    assert site.asked[0].path == "/donn%C3%A9es%201.zip?a=%20b"


# Room


def free_space(monkeypatch, free):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=free))


@pytest.mark.parametrize("facts", [{}, {"size": None}])
def test_a_file_that_does_not_fit_is_refused_before_the_first_byte(site, folder, monkeypatch, facts):
    free_space(monkeypatch, 299_999)
    assert "needs 300,000 more bytes" in (message := refused(site.file(**facts), folder))
    assert "299,999 are free" in message
    assert left_in(folder) == [".data.zip.lock"]


@pytest.mark.slow
@pytest.mark.parametrize("has_ranges", [True, False])
def test_what_is_here_needs_no_more_room(site, folder, monkeypatch, has_ranges):
    break_off(site, folder)
    free_space(monkeypatch, 200_000)
    site.script += [partial(send, has_ranges=has_ranges)]
    assert fetch(site.file(), folder).read_bytes() == CONTENT


@pytest.mark.parametrize("answer", [send, chunked(CONTENT), partial(send, Content_Length=None)])
def test_a_file_of_unknown_size_has_a_limit(site, folder, monkeypatch, answer):
    monkeypatch.setattr(fetch_module, "SIZE_LIMIT", 299_999)
    site.script += [answer]
    assert "at most 299,999 bytes" in refused(site.file(size=None), folder)
    assert left_in(folder) == [".data.zip.lock"]


# Proxies


def test_proxies_of_the_environment_are_used(site, folder, monkeypatch):
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("http_proxy", site.address)
    assert fetch(site.file(url="http://far.invalid/data.zip"), folder).read_bytes() == CONTENT
    assert site.asked[0].path == "http://far.invalid/data.zip"


# Several processes

FETCHING = """
import sys
from contextlib import contextmanager
from pathlib import Path
from fewshot_bench.datasets.fetch import RemoteFile, fetch

class Telling:
    @contextmanager
    def step(self, description, total, *, unit=""):
        print(description, flush=True)
        yield self

    def advance(self, amount=1, note=""):
        print(amount, flush=True)

url, size, digest, folder = sys.argv[1:]
fetch(RemoteFile("data.zip", url, int(size), digest), Path(folder), progress=Telling())
print("done", flush=True)
"""


@contextmanager
def fetching(site, folder):
    """Another process that fetches the file and prints what its progress is told."""
    file = site.file()
    command = [sys.executable, "-c", FETCHING, file.url, str(file.size), file.digest, str(folder)]
    environment = os.environ | {"PYTHONPATH": str(Path(fewshot_bench.__file__).parents[1])}
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process, line):
    for found in process.stdout:
        if found.strip() == line:
            return
    pytest.fail(f"the process ended without saying '{line}'")


@pytest.mark.slow
def test_a_killed_process_leaves_a_part_that_the_next_one_goes_on_with(site, folder):
    site.script += [drop_after(1000, then=wait_for_the_gate)]  # too few to leave a write buffer by themselves
    with fetching(site, folder) as process:
        arrived = 0
        while arrived < 1000:
            line = process.stdout.readline()
            assert line
            arrived += int(line) if line.strip().isdigit() else 0
        process.kill()
        process.wait()
    assert not (folder / "data.zip").exists()
    assert part_of(folder).read_bytes() == CONTENT[:1000]
    assert fetch(site.file(), folder).read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=1000-"]


@pytest.mark.slow
def test_two_processes_fetch_a_file_once(site, folder):
    site.script += [drop_after(100_000, then=wait_for_the_gate)]
    with fetching(site, folder) as first:
        read_until(first, "fetching data.zip")
        with fetching(site, folder) as second:
            read_until(second, "waiting for another process that fetches data.zip")
            site.gate.set()
            read_until(first, "done")
            read_until(second, "done")
    assert (folder / "data.zip").read_bytes() == CONTENT
    assert site.ranges == [None, "bytes=100000-"]


@pytest.mark.slow
def test_the_next_in_line_takes_over_from_a_killed_process(site, folder):
    site.script += [drop_after(100_000, then=wait_for_the_gate)]
    with fetching(site, folder) as first:
        read_until(first, "fetching data.zip")
        with fetching(site, folder) as second:
            read_until(second, "waiting for another process that fetches data.zip")
            first.kill()
            read_until(second, "done")
    assert (folder / "data.zip").read_bytes() == CONTENT


def test_many_threads_fetch_a_file_once(site, folder):
    threads = [threading.Thread(target=fetch, args=(site.file(), folder)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (folder / "data.zip").read_bytes() == CONTENT
    assert site.ranges == [None]


# Zenodo


def described(site, **changes):
    entry = {"key": "data.zip", "size": len(CONTENT), "checksum": digest(CONTENT), "links": {"self": site.url}}
    return {name: value for name, value in (entry | changes).items() if value is not None}


def record(site, files):
    return say(json.dumps({"id": 7978538, "files": files}).encode(), "application/json")


def ask(site, number="7978538"):
    return zenodo_files(number, api=f"{site.address}/api/records")


def test_a_record_lists_its_files_and_they_can_be_fetched(site, folder):
    site.script += [record(site, [described(site), described(site, key="labels.pkl", size=3)])]
    files = ask(site)
    assert site.asked[0].path == "/api/records/7978538"
    assert files["data.zip"] == site.file()
    assert files["labels.pkl"] == site.file(name="labels.pkl", size=3)
    assert fetch(files["data.zip"], folder).read_bytes() == CONTENT


@pytest.mark.parametrize("shape", ["mapping", "list"])
def test_records_of_inveniordm_list_their_files_too(site, shape):
    links = {"self": f"{site.address}/metadata", "content": f"{site.address}/content"}
    entry = described(site, links=links)
    site.script += [record(site, {"enabled": True, "entries": {"data.zip": entry} if shape == "mapping" else [entry]})]
    assert ask(site) == {"data.zip": site.file(url=f"{site.address}/content")}


def test_a_record_without_links_has_its_contents_at_their_usual_place(site):
    site.script += [record(site, {"entries": {"a b.zip": described(site, key="a b.zip", links=None)}})]
    assert ask(site)["a b.zip"].url == f"{site.address}/api/records/7978538/files/a%20b.zip/content"


@pytest.mark.slow
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"rubbish",
        b"\xff\xfe",
        b"[" * 100_000,
        b"1" * 5000,
        b"null",
        b"[]",
        b"{}",
        *(
            json.dumps({"files": files}).encode()
            for files in (None, [], {}, "x", {"entries": {}}, {"entries": 3}, [[]])
        ),
        *(json.dumps({"files": {"entries": {"a": entry}}}).encode() for entry in (None, 3, [], {}, {"key": 3})),
    ],
)
def test_a_record_that_is_none_is_one_line(site, body):
    site.script += [say(body, "application/json")] * 10
    with pytest.raises(DatasetError) as caught:
        ask(site)
    assert str(caught.value).isprintable()


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"key": None},
        {"key": 3},
        {"key": "../evil"},
        {"key": "\u001b[2J"},
        {"size": None},
        {"size": "3"},
        {"size": True},
        {"size": 3.5},
        {"size": -3},
        {"checksum": None},
        {"checksum": "crc32:00000000"},
        {"checksum": 7},
        {"links": None},
        {"links": []},
        {"links": {"self": None}},
        {"links": {"self": "file:///etc/hostname"}},
    ],
)
def test_an_odd_entry_of_a_record_is_one_line(site, changes):
    site.script += [record(site, [described(site, key="good.zip"), described(site, **changes)])]
    with pytest.raises(DatasetError) as caught:
        ask(site)
    assert str(caught.value).isprintable()


def test_a_name_that_a_record_lists_twice_is_one_line(site):
    site.script += [record(site, [described(site), described(site)])]
    with pytest.raises(DatasetError, match=r"lists data\.zip twice"):
        ask(site)


def test_a_record_that_fails_for_a_while_is_asked_again(site):
    site.script += [refuse(503), hang_up, drop_after(10), record(site, [described(site)])]
    assert list(ask(site)) == ["data.zip"]


@pytest.mark.slow
@pytest.mark.parametrize(("status", "line"), [(404, "the link is dead"), (403, "access is refused"), (503, "503")])
def test_a_record_that_cannot_be_had_is_one_line(site, status, line):
    site.script += [refuse(status)] * 10
    with pytest.raises(DatasetError, match=line):
        ask(site)


def test_a_record_without_end_is_refused(site, monkeypatch):
    monkeypatch.setattr(fetch_module, "RECORD_LIMIT", 100_000)
    site.script += [chunked(b" " * 200_000)]
    with pytest.raises(DatasetError, match="should fit in 100,000 bytes"):
        ask(site)


@pytest.mark.parametrize("number", ["", "10.5281/zenodo.7978538", "../7978538", "7978538?x", "７９", "1" * 19])
def test_only_numbers_are_records(number):
    with pytest.raises(DatasetError, match="a Zenodo record is a number"):
        zenodo_files(number)


def test_records_are_asked_for_on_the_web_only(tmp_path):
    (tmp_path / "1").write_text("{}")
    with pytest.raises(DatasetError, match="http or https address"):
        zenodo_files("1", api=tmp_path.as_uri())

"""How long is waited and how much is taken; read as `limits.NAME`, so that there is one place to change them."""

WAITS = (1.0, 3.0, 10.0)
"""Seconds before each further attempt after a failure that may pass; new bytes start the row again."""
TIMEOUT = 30.0
"""Seconds of silence after which a connection counts as lost."""
SIZE_LIMIT = 200 * 10**9
"""Bytes; nothing of unknown size grows beyond."""
RECORD_LIMIT = 10 * 10**6
"""Bytes of a record's JSON; real ones have some thousands."""
CHUNK = 1 << 20
"""Bytes that are read at once, at most."""
HEAD = 512
"""Bytes at the beginning of a file by which a web page is known."""

"""What operating systems, file managers, synchronisers and servers leave among files: thumbnails, indexes, waste.

One list for folders and archives. What is on it is no content, is never opened, and what was passed over is told.
"""

from __future__ import annotations

import re
from fnmatch import translate

HIDDEN = "hidden"
"""The kind of whatever begins with a dot: .DS_Store, ._photo.png, .thumbnails, .@__thumb, .git, .stversions, ..."""

CLUTTER = (
    # Windows
    "Thumbs.db", "ehthumbs*.db", "desktop.ini", "$RECYCLE.BIN", "RECYCLER", "System Volume Information", "~$*",
    # macOS
    "__MACOSX", "Icon\r", "Network Trash Folder", "Temporary Items", "TheVolumeSettingsFolder", "Desktop DB",
    "Desktop DF",
    # Linux, editors, Python
    "lost+found", "*~", "__pycache__",
    # Network storage: Synology, QNAP
    "@eaDir", "SYNOFILE_THUMB_*", "SYNOPHOTO_THUMB_*", "SYNOPHOTO:THUMB_*", "SYNOPHOTO_FILM_*", "SYNOVIDEO_*",
    "@SynoResource", "@SynoEAStream", "@tmp", "@sharesnap", "@Recycle", "@Recently-Snapshot", "#recycle", "#snapshot",
    # Synchronisers
    "~syncthing~*", "_gsdata_", "*.!sync",
    # Picture managers
    "Picasa.ini", "ZbThumbnail.info", "pspbrwse.jbf",
)  # fmt: skip
"""Names of files and folders, without regard to case; a star stands for anything."""

_PATTERNS = [(name, re.compile(translate(name), re.IGNORECASE)) for name in CLUTTER]
_ANY = re.compile("|".join(translate(name) for name in CLUTTER), re.IGNORECASE)


def clutter_kind(name: str) -> str | None:
    """What a file or folder of that name is: an entry of `CLUTTER`, or `HIDDEN`; None for content.

    >>> clutter_kind("@eaDir"), clutter_kind("._1.png"), clutter_kind("thumbs")
    ('@eaDir', 'hidden', None)
    """
    if name.startswith("."):
        return HIDDEN
    if not _ANY.match(name):
        return None
    return next(kind for kind, pattern in _PATTERNS if pattern.match(name)).strip()


def clutter_in(path: str) -> tuple[str, str] | None:
    """The outermost part of a path that is clutter, as a path, and what it is; None for content.

    >>> clutter_in("cat/@eaDir/1.png/SYNOFILE_THUMB_M.png")
    ('cat/@eaDir', '@eaDir')
    """
    parts = path.split("/")
    for depth, part in enumerate(parts, 1):
        if kind := clutter_kind(part):
            return "/".join(parts[:depth]), kind
    return None

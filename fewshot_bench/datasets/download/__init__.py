"""Fetch files from the web, whole or not at all, and go on where an earlier transfer broke off.

<folder>/.<name>.part         what has arrived
<folder>/.<name>.part.json    where it comes from: a later call goes on only with the same file
<folder>/.<name>.lock         held by the one process that fetches
<folder>/<name>               only ever the whole file, verified
"""

from fewshot_bench.datasets.download.remote_file import RemoteFile
from fewshot_bench.datasets.download.transfer import fetch
from fewshot_bench.datasets.download.zenodo import zenodo_files

__all__ = ["RemoteFile", "fetch", "zenodo_files"]

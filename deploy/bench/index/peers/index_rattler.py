"""Indexes a channel's folder by rattler's indexer. Arguments: folder, subdir, zst or nozst. Without arguments it only starts."""

import asyncio
import os
import sys

from rattler.index import index_fs
from rattler.platform import Subdir

if len(sys.argv) > 1:
    folder, subdir, zst = sys.argv[1:]
    asyncio.run(index_fs(folder, target_platform=Subdir(subdir), write_zst=zst == "zst", write_shards=True))
    # The work is done. Without this some runs abort while Python ends, when a thread of rattler's still lets go of it.
    os._exit(0)

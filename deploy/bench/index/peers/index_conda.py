"""Indexes a channel's folder by conda-index. Arguments: folder, subdir, and shards or all. Without arguments it only starts."""

import sys

from conda_index.index import ChannelIndex

if __name__ == "__main__" and len(sys.argv) > 1:
    folder, subdir, what = sys.argv[1:]
    index = ChannelIndex(
        folder,
        "bench",
        subdirs=[subdir],
        write_shards=True,
        write_monolithic=what == "all",
        write_zst=what == "all",
        write_current_repodata=False,
    )
    index.index(patch_generator=None)

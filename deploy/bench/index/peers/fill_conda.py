"""Fills conda-index's cache as if it had read each package. Arguments: folder, subdir. stdin: a file name, a tab and a record, a line each."""

import json
import os
import sys

from conda_index.index.sqlitecache import CondaIndexCache

folder, subdir = sys.argv[1:]
cache = CondaIndexCache(folder, subdir)
db = cache.db


def rows():
    for line in sys.stdin.buffer:
        path, _, record = line.rstrip(b"\n").partition(b"\t")
        yield path.decode(), record.decode()


with db:
    insert = "INSERT OR REPLACE INTO index_json (path, index_json) VALUES (?, ?)"
    stat = "INSERT OR REPLACE INTO stat (stage, path, mtime, size, sha256, md5) VALUES ('indexed', ?, ?, ?, ?, ?)"
    extra = "INSERT OR REPLACE INTO {0} (path, {0}) VALUES (?, ?)"
    for path, record in rows():
        fields = json.loads(record)
        file = os.stat(os.path.join(folder, subdir, path))
        db.execute(insert, (path, record))
        db.execute(extra.format("post_install"), (path, "{}"))
        db.execute(stat, (path, file.st_mtime, file.st_size, fields["sha256"], fields["md5"]))
cache.close()

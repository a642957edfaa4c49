"""rattler's indexer over a folder: run_rattler_index.py DIRECTORY OPTIONS, where options are index_fs's, as a JSON object."""

import json
import sys

import leaving
from rattler.index import index_fs

leaving.run(index_fs(sys.argv[1], **json.loads(sys.argv[2])))

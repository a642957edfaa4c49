"""Reads packages with conda-package-streaming: a JSON request on stdin, a JSON answer on stdout.

Request: urls of packages, files of packages, and the folder into which the files are unpacked, each into a folder named as
the file is. Answer: by URL, what info/index.json says, read with as few bytes as the server allows.
"""

import json
import os
import sys

from conda_package_streaming import extract, url


def index(package_url):
    for tar, member in url.stream_conda_info(package_url):
        if member.name == "info/index.json":
            return json.load(tar.extractfile(member))


ask = json.load(sys.stdin)
json.dump({u: index(u) for u in ask["urls"]}, sys.stdout)
for file in ask["files"]:
    extract.extract(file, os.path.join(ask["into"], os.path.basename(file)))

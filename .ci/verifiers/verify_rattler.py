"""Verifies sidecars with rattler: a JSON request on stdin, a JSON answer on stdout.

Request: cases, each with url (of the package; beside it is the immutable sidecar, which has the bundle alone in it), file,
trusted_root, bundle (paths), identity, issuer. Answer: for each case "" if it was accepted, or why not. The attested channel is
ignored, since the package comes from elsewhere.
"""

import asyncio
import hashlib
import json
import os
import sys
from functools import cache
from pathlib import Path

from rattler import BuildString, Client, PackageRecord, RepoDataRecord
from rattler.sigstore import ChannelCheck, Issuer, Publisher, TrustedRoot, VerificationPolicy, verify_attestation


@cache
def root(path):
    return TrustedRoot.from_path(path)


async def verify(case, client):
    try:
        name, version, build = Path(case["file"]).name.removesuffix(".conda").removesuffix(".tar.bz2").rsplit("-", 2)
        package = PackageRecord(
            name, version, BuildString(build), 0, "noarch",
            sha256=hashlib.sha256(Path(case["file"]).read_bytes()).digest(),
            attestations_sha256=hashlib.sha256(b"[" + Path(case["bundle"]).read_bytes() + b"]").digest(),
        )
        record = RepoDataRecord(package, Path(case["file"]).name, case["url"], case["url"].rsplit("/", 2)[0])
        policy = VerificationPolicy.require(Publisher(case["identity"], Issuer(case["issuer"])), channel_check=ChannelCheck("ignore"))
        outcome = await verify_attestation(record, policy, client=client, trusted_root=root(case["trusted_root"]))
        return "" if outcome.is_verified else f"not verified: {outcome}"
    except Exception as e:
        return f"{type(e).__name__}: {e}"


async def main():
    client = Client.default_client()
    answer = [await verify(c, client) for c in json.load(sys.stdin)["cases"]]
    json.dump(answer, sys.stdout)
    sys.stdout.flush()
    # Without the interpreter's end: rattler's threads now and then outlive it and crash a process whose work is done.
    os._exit(0)


asyncio.run(main())

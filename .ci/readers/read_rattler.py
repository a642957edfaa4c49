"""Reads a channel with rattler: a JSON request on stdin, a JSON answer on stdout.

Request: channel (URL), platforms, source (options of SourceConfig), cache (folder), and if wanted solve (match specs) with
prefix (folder to install the solution into), and verify: trusted_root (file), identity, issuer, channel_check.
Answer: records, solution, and verified: for each record of the solution who signed it, or the error.
"""

import json
import sys

import leaving
from rattler import Client, Gateway, SourceConfig, install, solve
from rattler.platform import Subdir
from rattler.sigstore import ChannelCheck, Issuer, Publisher, TrustedRoot, VerificationPolicy, verify_attestation


def told(record):
    answer = json.loads(record.to_json())
    # What the API gives, beside what the record says.
    answer["api"] = {
        "sha256": record.sha256.hex(),
        "md5": record.md5.hex(),
        "attestations_sha256": record.attestations_sha256.hex() if record.attestations_sha256 else None,
        "file_name": record.file_name,
        "size": record.size,
        "noarch": record.noarch.python and "python" or record.noarch.generic and "generic" or None,
    }
    return answer


async def main():
    ask = json.load(sys.stdin)
    client = Client.default_client()
    gateway = Gateway(cache_dir=ask["cache"], default_config=SourceConfig(**ask["source"]), client=client)
    names = await gateway.names([ask["channel"]], ask["platforms"])
    found = await gateway.query([ask["channel"]], ask["platforms"], [n.normalized for n in names], recursive=False)
    answer = {"records": [told(r) for records in found for r in records]}
    if ask.get("solve"):
        solution = await solve([ask["channel"]], ask["solve"], gateway=gateway, platforms=ask["platforms"])
        answer["solution"] = [r.file_name for r in solution]
        await install(solution, ask["prefix"], cache_dir=ask["cache"] + "-packages", platform=Subdir("linux-64"), show_progress=False, client=client)
    if verify := ask.get("verify"):
        root = TrustedRoot.from_path(verify["trusted_root"])
        publisher = Publisher(verify["identity"], Issuer(verify["issuer"]))
        policy = VerificationPolicy.require(publisher, channel_check=ChannelCheck(verify["channel_check"]))
        answer["verified"] = {}
        for record in solution:
            try:
                outcome = await verify_attestation(record, policy, client=client, trusted_root=root)
                answer["verified"][record.file_name] = outcome.attestation.identity
            except Exception as e:
                answer["verified"][record.file_name] = f"{type(e).__name__}: {e}"
    json.dump(answer, sys.stdout)


leaving.run(main())

"""Verifies bundles with sigstore-python: a JSON request on stdin, a JSON answer on stdout.

Request: cases, each with trusted_root, bundle, file (paths), identity, issuer, and predicate_type, which has to be the
statement's. Answer: for each case "" if it was accepted, or why not.

What is done beside Verifier.verify_dsse is what sigstore's own command does with a bundle and a file (the payload type, a
subject's digest), and the predicate type, which it does not ask for.
"""

import json
import sys
from functools import cache
from pathlib import Path

import sigstore.dsse
from sigstore.hashes import HashAlgorithm, Hashed
from sigstore.models import Bundle, TrustedRoot
from sigstore.verify import Verifier
from sigstore.verify.policy import Identity

import hashlib


@cache
def verifier(trusted_root):
    return Verifier(trusted_root=TrustedRoot.from_file(trusted_root))


def verify(case):
    try:
        bundle = Bundle.from_json(Path(case["bundle"]).read_bytes())
        kind, payload = verifier(case["trusted_root"]).verify_dsse(bundle, Identity(identity=case["identity"], issuer=case["issuer"]))
        if kind != "application/vnd.in-toto+json":
            return f"payload type {kind}"
        digest = hashlib.sha256(Path(case["file"]).read_bytes()).digest()
        if not sigstore.dsse.Statement(payload)._matches_digest(Hashed(algorithm=HashAlgorithm.SHA2_256, digest=digest)):
            return "no subject of the statement has the file's digest"
        if (got := json.loads(payload)["predicateType"]) != case["predicate_type"]:
            return f"predicate type {got}"
        return ""
    except Exception as e:
        return f"{type(e).__name__}: {e}"


json.dump([verify(c) for c in json.load(sys.stdin)["cases"]], sys.stdout)

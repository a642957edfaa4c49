"""Verifies sidecars with conda-sigstore: a JSON request on stdin, a JSON answer on stdout.

Request: cases, each with trusted_root, bundle, file (paths), identity, issuer, channel (URL). Answer: for each case "" if it
was accepted, or why not.
"""

import hashlib
import json
import sys
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "readers"))
import vendored  # noqa: E402, F401  conda-sigstore's conda
from conda_sigstore.evidence import Sidecar, SignerIdentity
from conda_sigstore.verification import SigstoreVerifier, verify_bundles
from sigstore.models import TrustedRoot
from sigstore.verify import Verifier


@cache
def verifier(trusted_root):
    return SigstoreVerifier(verifier=Verifier(trusted_root=TrustedRoot.from_file(trusted_root)))


def verify(case):
    try:
        bundle = Path(case["bundle"]).read_text()
        result = verify_bundles(
            Sidecar(hashlib.sha256(bundle.encode()).hexdigest(), (bundle,)),
            artifact_name=Path(case["file"]).name,
            artifact_sha256=hashlib.sha256(Path(case["file"]).read_bytes()).hexdigest(),
            verifier=verifier(case["trusted_root"]),
            channel=case["channel"],
            expected_signer=SignerIdentity(case["identity"], case["issuer"]),
        )
    except Exception as e:
        return f"{type(e).__name__}: {e}"
    if result.verified:
        return ""
    return f"{result.status}: " + "; ".join(f"{f.code}: {f}" for f in result.failures)


json.dump([verify(c) for c in json.load(sys.stdin)["cases"]], sys.stdout)

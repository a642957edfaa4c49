"""Signs statements with sigstore-python: a JSON request on stdin, a JSON answer on stdout.

Request: trusted_root, signing_config (paths), token, and cases, each with statement (text) or file (a path, signed itself) and
out (where the bundle goes). The answer is for each case "", or why it could not be signed.
"""

import json
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sigstore.dsse import Statement
from sigstore.models import ClientTrustConfig
from sigstore.oidc import IdentityToken
from sigstore.sign import SigningContext


def main():
    ask = json.load(sys.stdin)
    # What the option --trust-config of sigstore's own command reads.
    config = ClientTrustConfig.from_json(
        json.dumps(
            {
                "mediaType": "application/vnd.dev.sigstore.clienttrustconfig.v0.1+json",
                "trustedRoot": json.loads(Path(ask["trusted_root"]).read_bytes()),
                "signingConfig": json.loads(Path(ask["signing_config"]).read_bytes()),
            }
        )
    )
    with SigningContext.from_trust_config(config).signer(IdentityToken(ask["token"])) as signer:

        def sign(case):
            try:
                if "statement" in case:
                    bundle = signer.sign_dsse(Statement(case["statement"].encode()))
                else:
                    bundle = signer.sign_artifact(Path(case["file"]).read_bytes())
                Path(case["out"]).write_text(bundle.to_json())
                return ""
            except Exception as e:
                return f"{type(e).__name__}: {e}"

        # At once: a log of version 2 answers each with its next checkpoint.
        with ThreadPoolExecutor(16) as pool:
            json.dump(list(pool.map(sign, ask["cases"])), sys.stdout)


main()

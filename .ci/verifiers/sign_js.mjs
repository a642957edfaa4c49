// Signs statements with sigstore-js: a JSON request on stdin, a JSON answer on stdout.
//
// Request: urls (fulcio, rekor, tsa), rekor_version (1 or 2), token, and cases, each with statement (text) or file (a path,
// signed itself) and out (where the bundle goes). Answer: for each case "", or why it could not be signed.
import { readFileSync, writeFileSync } from "node:fs";
import { bundleToJSON } from "@sigstore/bundle";
import { DSSEBundleBuilder, FulcioSigner, RekorWitness, TSAWitness } from "@sigstore/sign";
import { attest, sign } from "sigstore";

const ask = JSON.parse(readFileSync(0, "utf8"));
const type = "application/vnd.in-toto+json";

// attest() and sign() of the package sigstore know no Rekor v2; its parts do.
const signed = async (c) => {
  if (ask.rekor_version === 2) {
    const builder = new DSSEBundleBuilder({
      signer: new FulcioSigner({ fulcioBaseURL: ask.urls.fulcio, identityProvider: { getToken: async () => ask.token } }),
      witnesses: [
        new RekorWitness({ rekorBaseURL: ask.urls.rekor, majorApiVersion: 2, timeout: 30000 }),
        new TSAWitness({ tsaBaseURL: ask.urls.tsa }),
      ],
    });
    return bundleToJSON(await builder.create({ data: Buffer.from(c.statement), type }));
  }
  const options = {
    fulcioURL: ask.urls.fulcio, rekorURL: ask.urls.rekor, tsaServerURL: ask.urls.tsa,
    identityProvider: { getToken: async () => ask.token },
  };
  return c.statement === undefined ? sign(readFileSync(c.file), options) : attest(Buffer.from(c.statement), type, options);
};

const answer = [];
for (const c of ask.cases) {
  try {
    writeFileSync(c.out, JSON.stringify(await signed(c)));
    answer.push("");
  } catch (e) {
    answer.push(`${e.name}${e.code ? " " + e.code : ""}: ${e.message}${e.cause ? ": " + e.cause.message : ""}`);
  }
}
process.stdout.write(JSON.stringify(answer));

// Verifies bundles with sigstore-js: a JSON request on stdin, a JSON answer on stdout.
//
// Request: cases, each with trusted_root, bundle, file (paths), identity, issuer, predicate_type. Answer: for each case "" if
// it was accepted, or why not.
//
// @sigstore/verify looks at no file and at no statement: subject and predicate type are compared here, as every caller has to.
import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { bundleFromJSON } from "@sigstore/bundle";
import { TrustedRoot } from "@sigstore/protobuf-specs";
import { toSignedEntity, toTrustMaterial, Verifier } from "@sigstore/verify";

const json = (file) => JSON.parse(readFileSync(file, "utf8"));
const verifiers = new Map();

function verifier(file) {
  if (!verifiers.has(file)) {
    verifiers.set(file, new Verifier(toTrustMaterial(TrustedRoot.fromJSON(json(file)))));
  }
  return verifiers.get(file);
}

function verify(c) {
  try {
    const bundle = bundleFromJSON(json(c.bundle));
    // The identity is a regular expression; the issuer is compared exactly.
    const san = "^" + c.identity.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&") + "$";
    verifier(c.trusted_root).verify(toSignedEntity(bundle), { subjectAlternativeName: san, extensions: { issuer: c.issuer } });
    if (bundle.content.$case !== "dsseEnvelope" || bundle.content.dsseEnvelope.payloadType !== "application/vnd.in-toto+json") {
      return "not an attestation";
    }
    const statement = JSON.parse(bundle.content.dsseEnvelope.payload.toString("utf8"));
    const sha256 = createHash("sha256").update(readFileSync(c.file)).digest("hex");
    if (!statement.subject?.some((s) => s.digest?.sha256 === sha256)) {
      return "no subject of the statement has the file's digest";
    }
    return statement.predicateType === c.predicate_type ? "" : `predicate type ${statement.predicateType}`;
  } catch (e) {
    return `${e.name}${e.code ? " " + e.code : ""}: ${e.message}`;
  }
}

const { cases } = JSON.parse(readFileSync(0, "utf8"));
process.stdout.write(JSON.stringify(cases.map(verify)));

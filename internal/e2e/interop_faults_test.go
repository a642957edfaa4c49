package e2e

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
)

// fault is one thing that is wrong about a bundle or about what is asked of it; everything else is right.
type fault struct {
	name string
	code string // Hallmark's; "" if there is nothing wrong

	of       *signed                 // what is verified; the instance's second package without
	change   func(b, other document) // of the bundle; other is another package's, with another certificate
	raw      func(b []byte) []byte   // of its bytes
	file     string                  // another file instead
	pkg      func(b []byte) []byte   // other bytes of the package
	question func(q *question)

	// blind are the verifiers that do not look at this, in words separated by blanks. docs/interop.md tells of them.
	blind string

	other []byte
}

// bundle gives the bundle as the case has it.
func (f *fault) bundle(t testing.TB, right []byte) []byte {
	t.Helper()
	b := right
	if f.change != nil {
		doc, other := parse(t, right), parse(t, f.other)
		f.change(doc, other)
		var err error
		if b, err = json.Marshal(map[string]any(doc)); err != nil {
			t.Fatal(err)
		}
		if bytes.Equal(b, must(json.Marshal(map[string]any(parse(t, right))))) {
			t.Fatalf("%s: it changes nothing", f.name)
		}
	}
	if f.raw != nil {
		b = f.raw(b)
	}
	return b
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// document is a bundle as JSON.
type document map[string]any

func parse(t testing.TB, b []byte) document {
	t.Helper()
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatal(err)
	}
	return d
}

// Where things are in a bundle.
var (
	envelope    = []any{"dsseEnvelope"}
	signature   = []any{"dsseEnvelope", "signatures", 0, "sig"}
	material    = []any{"verificationMaterial"}
	certificate = []any{"verificationMaterial", "certificate", "rawBytes"}
	entries     = []any{"verificationMaterial", "tlogEntries"}
	entry       = []any{"verificationMaterial", "tlogEntries", 0}
	proof       = []any{"verificationMaterial", "tlogEntries", 0, "inclusionProof"}
	promise     = []any{"verificationMaterial", "tlogEntries", 0, "inclusionPromise", "signedEntryTimestamp"}
	stamps      = []any{"verificationMaterial", "timestampVerificationData"}
	stamp       = []any{"verificationMaterial", "timestampVerificationData", "rfc3161Timestamps", 0, "signedTimestamp"}
)

func in(path []any, more ...any) []any { return append(append([]any{}, path...), more...) }

// get gives what is at the path, which has to be there.
func (d document) get(path []any) any {
	var v any = map[string]any(d)
	for _, step := range path {
		switch s := step.(type) {
		case string:
			v = v.(map[string]any)[s]
		case int:
			v = v.([]any)[s]
		}
		if v == nil {
			panic(fmt.Sprintf("nothing at %v of %v", step, path))
		}
	}
	return v
}

func (d document) put(path []any, v any) {
	switch at := d.get(path[:len(path)-1]).(type) {
	case map[string]any:
		at[path[len(path)-1].(string)] = v
	case []any:
		at[path[len(path)-1].(int)] = v
	}
}

func (d document) remove(path []any) {
	d.get(path)
	delete(d.get(path[:len(path)-1]).(map[string]any), path[len(path)-1].(string))
}

// bytes decodes what is at the path, changes it and puts it back.
func (d document) bytes(path []any, change func(b []byte) []byte) {
	b := must(base64.StdEncoding.DecodeString(d.get(path).(string)))
	d.put(path, base64.StdEncoding.EncodeToString(change(b)))
}

// lastBit changes the last bit: of what ends in a signature, the signature.
func lastBit(b []byte) []byte { b[len(b)-1] ^= 1; return b }

func firstBit(b []byte) []byte { b[0] ^= 1; return b }

func half(b []byte) []byte { return b[:len(b)/2] }

// next counts a number that JSON has as text up.
func (d document) next(path []any) {
	n := must(strconv.ParseInt(d.get(path).(string), 10, 64))
	d.put(path, strconv.FormatInt(n+1, 10))
}

func damaged(path []any, change func(b []byte) []byte) func(b, other document) {
	return func(b, _ document) { b.bytes(path, change) }
}

func ofOther(path []any) func(b, other document) {
	return func(b, other document) { b.put(path, other.get(path)) }
}

func without(path []any) func(b, other document) {
	return func(b, _ document) { b.remove(path) }
}

// faults are the cases for what was published by one instance; there is another one beside it.
func faults(in1, beside *instance) []fault {
	v1 := in1.rekor == "v1"
	byLog := func(blind1, blind2 string) string {
		if v1 {
			return blind1
		}
		return blind2
	}
	list := []fault{
		{name: "nothing"},
		{name: "the log's first entry", of: &in1.first},
		{name: "white space around it", raw: func(b []byte) []byte { return fmt.Appendf(nil, "\n %s\n", b) }},

		// The question.
		{name: "other file", code: "statement.subject-name", file: in1.first.file},
		{name: "other bytes of the file", code: "statement.digest-mismatch", pkg: func(b []byte) []byte { return append(b, 0) }},
		{name: "longer identity", code: "policy.identity-mismatch", question: func(q *question) { q.Identity += "x" }},
		{name: "shorter identity", code: "policy.identity-mismatch", question: func(q *question) { q.Identity = q.Identity[:len(q.Identity)-1] }},
		{name: "other case of the identity", code: "policy.identity-mismatch", question: func(q *question) { q.Identity = strings.Replace(q.Identity, "acme", "ACME", 1) }},
		{name: "other issuer", code: "policy.issuer-mismatch", question: func(q *question) { q.Issuer = "https://issuer.example" }},
		{name: "longer issuer", code: "policy.issuer-mismatch", question: func(q *question) { q.Issuer += "/x" }},
		{name: "a stranger's own attestation", code: "policy.identity-mismatch", of: &in1.stranger},
		{name: "a stranger's, for whom asks for it", of: &in1.stranger, question: func(q *question) { q.Identity = strangeIdentity }},
		{name: "trust root of another Sigstore", code: "log.not-verified", question: func(q *question) { q.TrustedRoot = beside.TrustedRoot }},
		{name: "other channel", code: "statement.target-channel", question: func(q *question) { q.Channel += "-other" }, blind: "cosign sigstore-python sigstore-js rattler"},

		// Its form.
		{name: "cut", code: "bundle.malformed", raw: func(b []byte) []byte { return b[:len(b)-1] }},
		{name: "an empty object", code: "bundle.malformed", raw: func([]byte) []byte { return []byte("{}") }},
		{name: "media type", code: "bundle.malformed", change: func(b, _ document) { b["mediaType"] = "application/json" }},
		{name: "version", code: "bundle.malformed", blind: "sigstore-js", change: func(b, _ document) { b["mediaType"] = "application/vnd.dev.sigstore.bundle.v0.9+json" }},
		{name: "no material", code: "bundle.malformed", change: without(material)},

		// The envelope.
		{name: "payload, a bit", code: "log.not-verified", change: damaged(in(envelope, "payload"), lastBit)},
		{name: "payload, a blank more", code: "log.not-verified", change: damaged(in(envelope, "payload"), func(b []byte) []byte { return append(b, ' ') })},
		{name: "payload of another", code: "log.not-verified", change: ofOther(in(envelope, "payload"))},
		{name: "payload type", code: "envelope.payload-type", change: func(b, _ document) { b.put(in(envelope, "payloadType"), "text/plain") }},
		{name: "signature, a bit", code: "log.not-verified", change: damaged(signature, lastBit)},
		{name: "signature of another", code: "log.not-verified", change: ofOther(signature)},
		{name: "signature empty", code: "log.not-verified", change: func(b, _ document) { b.put(signature, "") }},
		{name: "no signature", code: "envelope.signature-count", change: func(b, _ document) { b.put(in(envelope, "signatures"), []any{}) }},
		{name: "envelope of another", code: "log.not-verified", change: ofOther(envelope)},
		{name: "no envelope", code: "bundle.malformed", change: without(envelope)},

		// The certificate.
		{name: "certificate of another", code: "log.not-verified", change: ofOther(certificate)},
		{name: "certificate, a bit of its signature", code: "log.not-verified", change: damaged(certificate, lastBit)},
		{name: "half a certificate", code: "certificate.malformed", change: damaged(certificate, half)},
		{name: "certificate of the authority", code: "log.not-verified", change: func(b, _ document) { b.put(certificate, authority(in1)) }},
		{name: "no certificate", code: "bundle.malformed", change: without(in(material, "certificate"))},

		// The log.
		{name: "no log entry", code: "log.not-verified", change: func(b, _ document) { b.put(entries, []any{}) }},
		{name: "log entry of another", code: "log.not-verified", change: ofOther(entry)},
		{name: "log index", code: "log.not-verified", blind: byLog("", "sigstore-python sigstore-js conda-sigstore"), change: func(b, _ document) { b.next(in(entry, "logIndex")) }},
		{name: "log id", code: "log.not-verified", blind: byLog("", "rattler"), change: damaged(in(entry, "logId", "keyId"), firstBit)},
		{name: "body of another", code: "log.not-verified", blind: byLog("", "cosign"), change: ofOther(in(entry, "canonicalizedBody"))},
		{name: "no inclusion proof", code: "bundle.malformed", change: without(proof)},
		{name: "inclusion proof of another", code: "log.not-verified", change: ofOther(proof)},
		{name: "inclusion proof, its index", code: "log.not-verified", blind: byLog("", "cosign rattler"), change: func(b, _ document) { b.next(in(proof, "logIndex")) }},
		{name: "inclusion proof, its size", code: "log.not-verified", blind: byLog("sigstore-js", "cosign rattler sigstore-js"), change: func(b, _ document) { b.next(in(proof, "treeSize")) }},
		{name: "inclusion proof, its root", code: "log.not-verified", blind: byLog("sigstore-js", "cosign rattler sigstore-js"), change: damaged(in(proof, "rootHash"), firstBit)},
		{name: "inclusion proof, a hash", code: "log.not-verified", change: damaged(in(proof, "hashes", 0), firstBit)},
		{name: "checkpoint, its signature", code: "log.not-verified", change: checkpoint(func(text string) string {
			at := strings.LastIndex(strings.TrimRight(text, "\n"), " ") + 10 // in the signature, behind the key's id
			return text[:at] + string(text[at]^1) + text[at+1:]
		})},
		{name: "checkpoint, its root", code: "log.not-verified", change: checkpoint(func(text string) string {
			lines := strings.SplitAfter(text, "\n")
			lines[2] = base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
			return strings.Join(lines, "")
		})},
		{name: "no checkpoint", code: "bundle.malformed", change: without(in(proof, "checkpoint"))},
	}
	for _, field := range []struct{ name, of string }{{"kind", "kind"}, {"kind's version", "version"}} {
		list = append(list, fault{name: field.name, code: "log.not-verified", blind: "cosign", change: func(b, _ document) {
			b.put(in(entry, "kindVersion", field.of), b.get(in(entry, "kindVersion", field.of)).(string)+"0")
		}})
	}

	// Time. A log of version 1 vouches for it as well, one of version 2 does not.
	if v1 {
		list = append(list,
			fault{name: "no timestamp, but the log's", change: without(stamps)},
			fault{name: "no timestamp and no promise", code: "timestamp.not-verified", change: func(b, _ document) {
				b.remove(stamps)
				b.remove(in(entry, "inclusionPromise"))
			}},
			fault{name: "promise, a bit", code: "log.not-verified", change: damaged(promise, lastBit)},
			fault{name: "promise of another", code: "log.not-verified", change: ofOther(promise)},
			fault{name: "integrated time", code: "log.not-verified", change: func(b, _ document) { b.next(in(entry, "integratedTime")) }},
		)
	} else {
		list = append(list,
			fault{name: "no timestamp", code: "timestamp.not-verified", change: without(stamps)},
			fault{name: "timestamp of another", code: "timestamp.not-verified", change: ofOther(stamp)},
			fault{name: "timestamp, a bit", code: "timestamp.not-verified", change: damaged(stamp, lastBit)},
			fault{name: "half a timestamp", code: "timestamp.not-verified", change: damaged(stamp, half)},
		)
	}
	for i := range list {
		list[i].other = in1.first.bundle
	}
	return list
}

// checkpoint changes the text of a checkpoint.
func checkpoint(change func(string) string) func(b, other document) {
	return func(b, _ document) {
		path := in(proof, "checkpoint", "envelope")
		b.put(path, change(b.get(path).(string)))
	}
}

// authority is the certificate of the instance's own authority, base64.
func authority(in1 *instance) string {
	var root document
	if err := json.Unmarshal(must(os.ReadFile(in1.TrustedRoot)), &root); err != nil {
		panic(err)
	}
	return root.get([]any{"certificateAuthorities", 0, "certChain", "certificates", 0, "rawBytes"}).(string)
}

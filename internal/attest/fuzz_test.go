package attest

import "testing"

// The fuzz targets call the functions without the recover around them: a panic is a finding.

func seeds(f *testing.F, forge *forge) {
	f.Add(encode(f, forge.sign(f, order{})))
	f.Add(encode(f, forge.sign(f, order{rekor1: true})))
	f.Add(encode(f, forge.sign(f, order{noLog: true})))
	f.Add([]byte(`{"mediaType":"` + BundleMediaType + `","verificationMaterial":{},"dsseEnvelope":{}}`))
	f.Add([]byte("[]"))
}

func FuzzInspect(f *testing.F) {
	seeds(f, forgeOf(f))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := inspect(data)
		if err != nil && CodeOf(err) == "" {
			t.Errorf("an error without a code: %v", err)
		}
		if err == nil && r.Verified {
			t.Error("inspected, and marked verified")
		}
	})
}

func FuzzVerify(f *testing.F) {
	forge := forgeOf(f)
	v := forge.verifier(f, nil)
	policy := allow(testIdentity, testIssuer)
	seeds(f, forge)
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := v.verify(data, testSubject(), policy)
		if err != nil && CodeOf(err) == "" {
			t.Errorf("an error without a code: %v", err)
		}
		if err == nil && (r.Identity != testIdentity || r.Subject != testSubject() || len(r.Log) == 0 || r.SignedAt.IsZero()) {
			t.Errorf("accepted %+v", r)
		}
	})
}

func FuzzParseTrustRoot(f *testing.F) {
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.trustedroot+json;version=0.1","tlogs":[{"baseUrl":"https://x","hashAlgorithm":"SHA2_256","publicKey":{"rawBytes":"AA==","keyDetails":"PKIX_ED25519","validFor":{}},"logId":{"keyId":"AA=="}}],"certificateAuthorities":[{"certChain":{"certificates":[{}]}}]}`))
	f.Add([]byte(`{"mediaType":"application/vnd.dev.sigstore.signingconfig.v0.2+json"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if tr, err := ParseTrustRoot(data); err == nil {
			_, _ = NewVerifier(tr)
		}
		if sc, err := ParseSigningConfig(data); err == nil {
			sc.RekorLogURLs()
		}
	})
}

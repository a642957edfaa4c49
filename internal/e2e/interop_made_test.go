package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// making is one attestation that somebody else is to make.
type making struct {
	Statement string `json:"statement,omitempty"`
	File      string `json:"file,omitempty"` // signed itself, without a statement
	Out       string `json:"out"`
}

// maker is a program of another project that signs: all at once, and answers for each "", or why it did not.
type maker struct {
	name string
	make func(t testing.TB, s *sigstore, rekor, token string, all []making) []string
	// wont are the statements that it refuses to sign, by the name of the case.
	wont []string
}

func makers() []maker {
	return []maker{
		{"cosign", makeByCosign, []string{"not a statement"}},
		{"sigstore-python", func(t testing.TB, s *sigstore, _, token string, all []making) []string {
			return foreign(t, "venv/bin/python", "sign_python.py", map[string]any{
				"trusted_root": s.TrustedRoot, "signing_config": s.SigningConfig, "token": token, "cases": all})
		}, []string{"statement v0.1", "no subject", "not a statement"}},
		{"sigstore-js", func(t testing.TB, s *sigstore, rekor, token string, all []making) []string {
			return foreign(t, "", "sign_js.mjs", map[string]any{
				"urls": s.URLs, "rekor_version": int(rekor[1] - '0'), "token": token, "cases": all})
		}, nil},
	}
}

func makeByCosign(t testing.TB, s *sigstore, _, token string, all []making) []string {
	answers := make([]string, len(all))
	dir := t.TempDir()
	each(indexes(len(all)), func(i int) {
		m := all[i]
		args := []string{"attest-blob", "--statement", filepath.Join(dir, fmt.Sprint(i))}
		if m.File != "" {
			args = []string{"sign-blob", m.File}
		} else if err := os.WriteFile(args[2], []byte(m.Statement), 0o644); err != nil {
			t.Error(err)
		}
		args = append(args, "--identity-token", token, "--signing-config", s.SigningConfig, "--trusted-root", s.TrustedRoot, "--bundle", m.Out, "--yes")
		if r := runEnv(t, nil, programs.cosign, args...); r.code != 0 {
			answers[i] = r.stderr
		}
	})
	return answers
}

// token gives an identity token of the instance.
func (s *sigstore) token(t testing.TB, flags ...string) string {
	t.Helper()
	return strings.TrimSpace(runEnv(t, nil, programs.sigstore, append(append([]string{"token"}, flags...), s.dir)...).want(t, 0).stdout)
}

// statementFault is a statement about a package, of which one part may be wrong, with Hallmark's code for that.
type statementFault struct {
	name, code string
	cause      string // of the failure, where it is brought along; bundle.refused without
	change     func(st map[string]any, subject map[string]any)
	raw        string
	bare       bool // no statement: the file's own signature
	stranger   bool // signed by another workflow
}

func statementFaults() []statementFault {
	set := func(key string, v any) func(st, _ map[string]any) {
		return func(st, _ map[string]any) { st[key] = v }
	}
	return []statementFault{
		{name: "right"},
		{name: "without a channel", code: "statement.target-channel", change: set("predicate", nil)},
		{name: "more in the predicate", change: set("predicate", map[string]any{"targetChannel": channelURL, "builder": "x"})},
		{name: "other predicate type", code: "statement.predicate-type", cause: "bundle.predicate-type: ", change: set("predicateType", "https://slsa.dev/provenance/v1")},
		{name: "statement v0.1", code: "statement.type", change: set("_type", "https://in-toto.io/Statement/v0.1")},
		{name: "other channel", code: "statement.target-channel", change: set("predicate", map[string]any{"targetChannel": channelURL + "-other"})},
		{name: "channel with a slash", code: "statement.predicate", change: set("predicate", map[string]any{"targetChannel": channelURL + "/"})},
		{name: "empty predicate", code: "statement.predicate", change: set("predicate", map[string]any{})},
		{name: "other name", code: "statement.subject-name", change: func(_, subject map[string]any) { subject["name"] = "x-1.0-0.conda" }},
		{name: "name in a subdir", code: "statement.subject-name", change: func(_, subject map[string]any) { subject["name"] = "noarch/" + subject["name"].(string) }},
		{name: "other digest", code: "statement.digest-mismatch", change: func(_, subject map[string]any) {
			subject["digest"] = map[string]any{"sha256": strings.Repeat("0", 64)}
		}},
		{name: "a second digest", code: "statement.digest-set", change: func(_, subject map[string]any) {
			subject["digest"].(map[string]any)["sha512"] = strings.Repeat("0", 128)
		}},
		{name: "two subjects", code: "statement.subject-count", change: func(st, subject map[string]any) { st["subject"] = []any{subject, subject} }},
		{name: "no subject", code: "statement.subject-count", change: set("subject", []any{})},
		{name: "not a statement", code: "statement.type", raw: `{"a":1}`},
		{name: "the file's own signature", code: "envelope.missing", bare: true},
		{name: "a stranger's", code: "policy.identity-mismatch", stranger: true},
	}
}

func (f statementFault) statement(t testing.TB, file string) string {
	t.Helper()
	if f.raw != "" {
		return f.raw
	}
	d := sha256.Sum256(read(t, file))
	subject := map[string]any{"name": filepath.Base(file), "digest": map[string]any{"sha256": hex.EncodeToString(d[:])}}
	st := map[string]any{
		"_type": "https://in-toto.io/Statement/v1", "subject": []any{subject}, "predicateType": predicateType,
		"predicate": map[string]any{"targetChannel": channelURL},
	}
	if f.change != nil {
		f.change(st, subject)
	}
	return string(must(json.Marshal(st)))
}

// TestInteropMade: attestations that others made, with either Rekor, are verified, and published instead of one of
// Hallmark's own, where they are publish attestations of the package by its signer; all others are refused with their code.
func TestInteropMade(t *testing.T) {
	t.Parallel()
	verifiers(t)
	v1, err := startSigstore(filepath.Join(t.TempDir(), "instance"), "v1")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(v1.stop)
	for i, by := range []struct {
		*sigstore
		rekor string
	}{{stack, "v2"}, {v1, "v1"}} {
		for j, m := range makers() {
			t.Run(m.name+", rekor "+by.rekor, func(t *testing.T) {
				t.Parallel()
				if m.name == "sigstore-js" && by.rekor == "v2" {
					cannotMake(t, m, by.sigstore)
					return
				}
				made(t, m, by.sigstore, by.rekor, uint64(400+10*i+j))
			})
		}
	}
}

// cannotMake: sigstore-js logs an attestation with Rekor v2 in a form that Rekor no longer takes.
func cannotMake(t *testing.T, m maker, s *sigstore) {
	file := samples(t, 1, 499)[0]
	answer := m.make(t, s, "v2", s.token(t), []making{{Statement: statementFault{}.statement(t, file), Out: filepath.Join(t.TempDir(), "x")}})
	if len(answer) != 1 || !strings.Contains(answer[0], "must be hashedrekord") {
		t.Errorf("it says %q; if it can now, docs/interop.md is out of date", answer)
	}
}

func made(t *testing.T, m maker, s *sigstore, rekor string, seed uint64) {
	faults := statementFaults()
	packages := samples(t, len(faults), seed)
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "verify"), 0o755); err != nil {
		t.Fatal(err)
	}
	var own, strange []making
	for i, f := range faults {
		file := filepath.Join(dir, filepath.Base(packages[i]))
		if err := os.Rename(packages[i], file); err != nil {
			t.Fatal(err)
		}
		packages[i] = file
		mk := making{Statement: f.statement(t, file), Out: file + ".sigstore.json"}
		if f.bare {
			mk.Statement, mk.File = "", file
		}
		if f.stranger {
			strange = append(strange, mk)
		} else {
			own = append(own, mk)
		}
	}
	answers := append(m.make(t, s, rekor, s.token(t), own), m.make(t, s, rekor, s.token(t, "--repository", "evil/twin"), strange)...)
	if len(answers) != len(faults) {
		t.Fatalf("%d answers to %d cases", len(answers), len(faults))
	}

	var asked []statementFault
	var questions []question
	for i, f := range faults {
		if wont := slices.Contains(m.wont, f.name); wont != (answers[i] != "") {
			t.Errorf("%s: %s signs it: %q", f.name, m.name, answers[i])
		}
		if answers[i] != "" {
			continue
		}
		// In another folder, as FILE.sigs beside the package, where verify looks for it.
		there := filepath.Join(dir, "verify", filepath.Base(packages[i]))
		if err := errors.Join(os.Link(packages[i], there), os.Link(packages[i]+".sigstore.json", there+".sigs")); err != nil {
			t.Fatal(err)
		}
		asked = append(asked, f)
		questions = append(questions, question{TrustedRoot: s.TrustedRoot, File: there, Identity: s.Identity, Issuer: s.Issuer, Channel: channelURL})
	}
	for i, answer := range askHallmark(t, questions) {
		f := asked[i]
		if f.code == "" && answer != "" || f.code != "" && !strings.HasPrefix(answer, f.code+" | ") {
			t.Errorf("%s: want %q, verify says %q", f.name, f.code, answer)
		}
	}

	// As attestations that are brought along.
	p := newPlace(t)
	args := append(p.publish(), "--attestations-beside")
	want := map[string]statementFault{}
	for i, q := range questions {
		args = append(args, filepath.Join(dir, filepath.Base(q.File)))
		want[filepath.Base(q.File)] = asked[i]
	}
	c := decode[campaign](t, runEnv(t, s.env, programs.producer, args...).want(t, 3))
	refused := map[string]string{}
	for _, f := range c.Failures {
		refused[f.Filename] = f.Cause + ": " + f.Message
	}
	for file, f := range want {
		sidecars, _ := filepath.Glob(filepath.Join(p.channel, "*", file+".sigs"))
		cause := f.cause
		if cause == "" {
			cause = "bundle.refused: "
		}
		switch {
		case f.code == "" && (refused[file] != "" || len(sidecars) != 1):
			t.Errorf("%s: it is not published: %s", f.name, refused[file])
		case f.code == "":
			brought := read(t, filepath.Join(dir, file+".sigstore.json"))
			if b := bundles(t, read(t, sidecars[0])); len(b) != 1 || !sameJSON(t, b[0], brought) {
				t.Errorf("%s: another attestation is published than the one that was brought", f.name)
			}
		case len(sidecars) != 0 || !strings.HasPrefix(refused[file], cause) || f.cause == "" && !strings.Contains(refused[file], f.code):
			t.Errorf("%s: want it refused as %s%s: %s", f.name, cause, f.code, refused[file])
		}
	}
	t.Logf("%s signs %d of %d; %d are published", m.name, len(asked), len(faults), c.Published)
}

func sameJSON(t testing.TB, a, b []byte) bool {
	t.Helper()
	return string(must(json.Marshal(parse(t, a)))) == string(must(json.Marshal(parse(t, b))))
}

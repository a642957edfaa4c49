package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/channel"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/conda"
)

// identityFlags say who must have signed: by a policy file, or in cosign's forms.
type identityFlags struct {
	Policy         string `placeholder:"FILE" help:"Policy file (docs/policy.md), instead of the flags for an identity and an issuer."`
	Identity       string `name:"certificate-identity" help:"Identity that must have signed, exactly."`
	IdentityRegexp string `name:"certificate-identity-regexp" help:"Regular expression that the identity must match; not anchored, as cosign's."`
	IdentityPrefix string `name:"certificate-identity-prefix" help:"Start of the identity, up to a boundary: / or @."`
	Issuer         string `name:"certificate-oidc-issuer" help:"OIDC issuer of the identity, exactly."`
	IssuerRegexp   string `name:"certificate-oidc-issuer-regexp" help:"Regular expression that the issuer must match; not anchored, as cosign's."`
}

// given tells whether any of the flags is.
func (f *identityFlags) given() bool { return *f != identityFlags{} }

// policy returns the policy that the flags say. Without an identity and an issuer there is none: an attestation that
// anybody may have made proves nothing.
func (f *identityFlags) policy(targetChannel string) (attest.Policy, error) {
	if f.Policy != "" {
		return f.policyFile(targetChannel)
	}
	p := attest.Policy{TargetChannel: targetChannel, Signers: []attest.Signer{{
		Identity: f.Identity, IdentityRegexp: f.IdentityRegexp, IdentityPrefix: f.IdentityPrefix,
		Issuer: f.Issuer, IssuerRegexp: f.IssuerRegexp,
	}}}
	if f.Identity+f.IdentityRegexp+f.IdentityPrefix == "" || f.Issuer+f.IssuerRegexp == "" {
		return p, command.Usage("give --certificate-identity and --certificate-oidc-issuer, or their pattern forms, or a --policy",
			errors.New("whose attestation counts? an identity and an issuer are required"))
	}
	if err := p.Check(); err != nil {
		return p, command.Usage("", err)
	}
	return p, nil
}

func (f *identityFlags) policyFile(targetChannel string) (attest.Policy, error) {
	if *f != (identityFlags{Policy: f.Policy}) {
		return attest.Policy{}, command.Usage("say who may sign in the policy file alone", errors.New("--policy and --certificate-… at once"))
	}
	p, err := command.ReadPolicy(f.Policy)
	if err != nil {
		return p, err
	}
	if p, err = p.For(targetChannel); err != nil {
		return attest.Policy{}, command.Usage("docs/policy.md has every key", err)
	}
	return p, nil
}

// verifyCmd verifies packages as a user would.
type verifyCmd struct {
	Packages []string `arg:"" name:"package" help:"Package files (.conda, .tar.bz2)."`
	identityFlags
	command.TrustFlags
	Bundle        string `xor:"from" placeholder:"FILE" help:"Bundle, or sidecar, to verify against (default: the sidecar <package>.sigs beside the package)."`
	Channel       string `xor:"from" placeholder:"DIR|s3://BUCKET/PREFIX" help:"Channel to take the attestation from: its index must list the package with this digest and sidecar."`
	TargetChannel string `placeholder:"URL" help:"Channel that the attestation must name."`
}

type verdict struct {
	Package    string         `json:"package"`
	Verified   bool           `json:"verified"`
	SHA256     string         `json:"sha256,omitempty"`
	Code       string         `json:"code,omitempty"`
	Message    string         `json:"message,omitempty"`
	Hint       string         `json:"hint,omitempty"`
	Warnings   []string       `json:"warnings,omitempty"`
	Attest     *attestation   `json:"attestation,omitempty"`
	Unverified []refusedEntry `json:"refused,omitempty"`
}

type refusedEntry struct {
	Index   int    `json:"index"`
	Message string `json:"message"`
}

// Run verifies.
func (v *verifyCmd) Run(ctx context.Context, env *command.Env) error {
	policy, err := v.policy(v.TargetChannel)
	if err != nil {
		return err
	}
	ver, err := v.Verifier(ctx)
	if err != nil {
		return err
	}
	var ch *channel.Channel
	if v.Channel != "" {
		if st, err := os.Stat(v.Channel); !strings.Contains(v.Channel, "://") && (err != nil || !st.IsDir()) {
			return command.Usage("", fmt.Errorf("--channel: %s is not a folder", v.Channel))
		}
		if ch, err = command.OpenChannel(ctx, v.Channel, false); err != nil {
			return err
		}
	}
	verdicts := make([]verdict, len(v.Packages))
	bad := 0
	for i, path := range v.Packages {
		verdicts[i] = v.one(ctx, ver, policy, ch, path)
		if !verdicts[i].Verified {
			bad++
		}
	}
	err = env.Result(struct {
		Schema   string    `json:"schema"`
		Verified int       `json:"verified"`
		Refused  int       `json:"refused"`
		Packages []verdict `json:"packages"`
	}{"hallmark.verification/1", len(verdicts) - bad, bad, verdicts}, func(w io.Writer) {
		for _, d := range verdicts {
			d.text(w)
		}
		for _, warning := range policy.Warnings() {
			fmt.Fprintf(env.Stderr, "warning: %s\n", warning)
		}
	})
	if err != nil {
		return err
	}
	if bad > 0 {
		return &command.Error{Code: command.ExitFailed, Err: fmt.Errorf("%d of %d packages do not verify", bad, len(verdicts))}
	}
	return nil
}

func (v *verifyCmd) one(ctx context.Context, ver *attest.Verifier, policy attest.Policy, ch *channel.Channel, path string) (d verdict) {
	d.Package = path
	refuse := func(err error) verdict {
		d.Message = err.Error()
		d.Code = string(attest.CodeOf(err))
		if e, ok := errors.AsType[*attest.Error](err); ok {
			d.Hint = e.Hint
		}
		return d
	}
	digest, err := fileDigest(ctx, path)
	if err != nil {
		return refuse(err)
	}
	d.SHA256 = digest
	subject := attest.Subject{Filename: filepath.Base(path), SHA256: digest}
	material, err := v.material(ctx, ch, path, subject)
	if err != nil {
		return refuse(err)
	}
	res, err := verifyMaterial(material, ver, subject, policy)
	if err != nil {
		return refuse(err)
	}
	d.Verified, d.Warnings, d.Attest = true, res.Warnings, attestationOf(res)
	for _, r := range res.Refused {
		d.Unverified = append(d.Unverified, refusedEntry{r.Index, r.Err.Error()})
	}
	return d
}

// material returns the bundle or sidecar to verify with.
func (v *verifyCmd) material(ctx context.Context, ch *channel.Channel, path string, s attest.Subject) ([]byte, error) {
	if ch == nil {
		file := v.Bundle
		if file == "" {
			file = path + ".sigs"
		}
		return readMaterial(file)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	pkg, err := conda.Read(ctx, f, st.Size(), s.Filename)
	if err != nil {
		return nil, err
	}
	found, err := ch.Find(ctx, pkg.Subdir, s.Filename)
	if err != nil {
		return nil, fmt.Errorf("looking for %s/%s in %s: %w", pkg.Subdir, s.Filename, v.Channel, err)
	}
	switch rec := found.Record; {
	case !found.Indexed:
		return nil, fmt.Errorf("%s does not list %s/%s", v.Channel, pkg.Subdir, s.Filename)
	case rec.SHA256 != s.SHA256:
		return nil, fmt.Errorf("%s lists %s/%s with other bytes: sha256 %s", v.Channel, pkg.Subdir, s.Filename, rec.SHA256)
	case rec.AttestationsSHA256 == "":
		return nil, fmt.Errorf("%s lists %s/%s without an attestation", v.Channel, pkg.Subdir, s.Filename)
	default:
		// CEP 50, client requirements 1 to 4: the immutable URL, a size limit, and the hash before any parsing.
		return ch.AdvertisedSidecar(ctx, pkg.Subdir, s.Filename, rec.AttestationsSHA256)
	}
}

// readFile reads at most limit bytes of a file.
func readFile(file string, limit int64) ([]byte, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, limit))
}

// readMaterial reads a bundle or a sidecar from a file, up to the size that any client reads.
func readMaterial(file string) ([]byte, error) {
	b, err := readFile(file, attest.MaxSidecar+1)
	if err != nil {
		return nil, fmt.Errorf("reading the attestation: %w", err)
	}
	if len(b) > attest.MaxSidecar {
		return nil, fmt.Errorf("%s is larger than %d bytes: no client would read it", file, attest.MaxSidecar)
	}
	return b, nil
}

func verifyMaterial(material []byte, v *attest.Verifier, s attest.Subject, p attest.Policy) (*attest.Result, error) {
	required, _ := p.PredicateTypes()
	if attest.IsSidecar(material) && !slices.Equal(required, []string{attest.PredicateType}) {
		r, err := attest.VerifySidecar(material, v, s, p)
		if err != nil {
			return nil, err
		}
		first, _ := r.Accepted(required[0]) // all of them were
		for _, e := range r.Elements {
			if e.Verdict == attest.VerdictRefused {
				first.Result.Refused = append(first.Result.Refused, attest.Refused{Index: e.Index, Err: e.Err})
			}
		}
		return first.Result, nil
	}
	if attest.IsSidecar(material) {
		// Of a single bundle the reason itself is told, not that there is none that verifies.
		if all, err := attest.Split(material); err == nil && len(all) == 1 {
			return v.Verify(all[0], s, p)
		}
		_, res, err := attest.Find(material, v, s, p)
		return res, err
	}
	return v.Verify(material, s, p)
}

func (d *verdict) text(w io.Writer) {
	if !d.Verified {
		fmt.Fprintf(w, "REFUSED   %s\n  cause: %s\n", d.Package, d.Message)
		if d.Hint != "" {
			fmt.Fprintf(w, "  hint:  %s\n", d.Hint)
		}
		return
	}
	fmt.Fprintf(w, "verified  %s  signed by %s at %s\n", d.Package, d.Attest.Identity, d.Attest.SignedAt.Format(time.RFC3339))
	for _, s := range d.Warnings {
		fmt.Fprintf(w, "  warning:  %s\n", s)
	}
}

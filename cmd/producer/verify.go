package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/attest"
	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/conda"
	"github.com/hallmark-attest/hallmark/internal/store"
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
	Packages  []string `arg:"" optional:"" name:"package" help:"Package files; URLs of packages or of their sidecars; with --channel also file names, names and match specs (\"numpy >=2\"), of which every match is verified."`
	FilesFrom string   `placeholder:"FILE" help:"Read more of them from FILE, one on each line; - is stdin."`
	identityFlags
	command.TrustFlags
	Bundle        string   `xor:"from" placeholder:"FILE" help:"Bundle, or sidecar, to verify against (default: the sidecar <package>.sigs beside the package)."`
	Channel       string   `xor:"from" placeholder:"DIR|s3://BUCKET/PREFIX|URL" help:"Channel to take the attestation from: its index must list the package with this digest and sidecar."`
	Subdir        []string `placeholder:"SUBDIR" help:"With --channel: look for names in these only (default: all)."`
	Newest        bool     `help:"With --channel: of what a name or match spec finds, only the newest version, all builds of it."`
	NoDownload    bool     `help:"Take a published package's SHA-256 from the channel's index instead of downloading it: that the channel serves these bytes is then not verified."`
	TargetChannel string   `placeholder:"URL" help:"Channel that the attestation must name."`
	Parallel      int      `default:"8" help:"How many packages are read and verified at once."`
}

// Run verifies.
func (v *verifyCmd) Run(ctx context.Context, env *command.Env) error {
	policy, err := v.policy(v.TargetChannel)
	if err != nil {
		return err
	}
	targets, err := v.targets(ctx, env)
	if err != nil {
		return err
	}
	ver, err := v.Verifier(ctx)
	if err != nil {
		return err
	}
	all, err := v.candidates(ctx, targets)
	if err != nil {
		return err
	}
	verdicts := make([]verdict, len(all))
	if err := v.each(ctx, len(all), func(i int) { verdicts[i] = v.one(ctx, ver, policy, all[i]) }); err != nil {
		return err
	}
	r := verification{Schema: "hallmark.verification/1", Packages: verdicts}
	for _, d := range verdicts {
		switch d.Status {
		case statusVerified:
			r.Verified++
		case statusRefused:
			r.Refused++
		default:
			r.Unreachable++
		}
	}
	err = env.Result(r, func(w io.Writer) {
		matchesText(w, targets, all)
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
	return r.error()
}

// targets reads the arguments. Nothing is asked for yet.
func (v *verifyCmd) targets(ctx context.Context, env *command.Env) ([]*target, error) {
	args := slices.Clone(v.Packages)
	if v.FilesFrom != "" {
		more, err := readLines(env.Stdin, v.FilesFrom)
		if err != nil {
			return nil, command.Usage("", fmt.Errorf("--files-from: %w", err))
		}
		args = append(args, more...)
	}
	if len(args) == 0 {
		return nil, command.Usage("name packages, or give --files-from", errors.New("no packages"))
	}
	for _, s := range v.Subdir {
		if err := conda.CheckSubdir(s); err != nil {
			return nil, command.Usage("", fmt.Errorf("--subdir: %w", err))
		}
	}
	if v.Channel == "" && (len(v.Subdir) > 0 || v.Newest) {
		return nil, command.Usage("give --channel", errors.New("--subdir and --newest are for names in a channel"))
	}
	p := &places{transport: store.NewTransport(), open: map[string]*place{}}
	var in *place
	if v.Channel != "" {
		var err error
		if in, err = p.get(ctx, v.Channel); err != nil {
			return nil, err
		}
	}
	targets := make([]*target, len(args))
	for i, arg := range args {
		var err error
		if targets[i], err = p.target(ctx, arg, in); err != nil {
			return nil, err
		}
	}
	return targets, nil
}

// one verifies one package. What costs least comes first: a package without an attestation is not downloaded.
func (v *verifyCmd) one(ctx context.Context, ver *attest.Verifier, policy attest.Policy, c candidate) (d verdict) {
	d.describe(c)
	material, err := v.material(ctx, c, &d)
	if err == nil {
		d.SHA256, d.DigestFrom, err = v.digest(ctx, c)
	}
	if err != nil {
		d.refuse(c, err)
		return d
	}
	res, err := verifyMaterial(material, ver, attest.Subject{Filename: c.filename, SHA256: d.SHA256}, policy)
	if err != nil {
		d.refuse(c, err)
		return d
	}
	d.Status, d.Verified, d.Warnings, d.Attest = statusVerified, true, res.Warnings, attestationOf(res)
	for _, r := range res.Refused {
		d.Unverified = append(d.Unverified, refusedEntry{r.Index, r.Err.Error()})
	}
	return d
}

// digest gives the SHA-256 of the package's bytes, and where it is from.
func (v *verifyCmd) digest(ctx context.Context, c candidate) (sha256, from string, err error) {
	if c.target.sha256 != "" {
		return c.target.sha256, digestOfFile, nil
	}
	if v.NoDownload {
		return c.record.SHA256, digestOfIndex, nil // attest refuses what is no digest
	}
	found := false
	err = again(ctx, func() (err error) {
		sha256, _, found, err = c.place.ServedDigest(ctx, c.subdir, c.filename)
		return err
	})
	switch {
	case err != nil:
		return "", "", err
	case !found:
		return "", "", &causeError{causeMissing, "", fmt.Errorf("%s does not serve %s/%s", c.place.name, c.subdir, c.filename)}
	case c.record != nil && c.record.SHA256 != "" && c.record.SHA256 != sha256:
		return "", "", &causeError{causeDigest, "", fmt.Errorf("%s lists %s/%s with sha256 %s, and serves other bytes: sha256 %s",
			c.place.name, c.subdir, c.filename, c.record.SHA256, sha256)}
	}
	return sha256, digestOfDownload, nil
}

// material gives the bundle or sidecar to verify with, and notes in d which it is.
func (v *verifyCmd) material(ctx context.Context, c candidate, d *verdict) ([]byte, error) {
	if c.err != nil {
		return nil, c.err
	}
	if r := c.record; r != nil && c.target.sha256 != "" && r.SHA256 != c.target.sha256 {
		return nil, &causeError{causeDigest, "", fmt.Errorf("%s lists %s/%s with other bytes: sha256 %s", c.place.name, c.subdir, c.filename, r.SHA256)}
	}
	d.Sidecar = &sidecarUsed{}
	switch r := c.record; {
	case v.Bundle != "":
		d.Sidecar.Kind, d.Sidecar.Name = sidecarFile, v.Bundle
		return readMaterial(v.Bundle)
	case c.place == nil:
		d.Sidecar.Kind, d.Sidecar.Name = sidecarFile, c.path+".sigs"
		return readMaterial(c.path + ".sigs")
	case c.sidecar != "":
		return v.named(ctx, c, d)
	case r.Advertised:
		// CEP 50, client requirements 1 to 4: the immutable URL, a size limit, and the hash before any parsing.
		d.Sidecar.Kind, d.Sidecar.Name, d.Sidecar.SHA256 = sidecarAdvertised, c.filename+".sigs."+r.Attestations, r.Attestations
		var b []byte
		err := again(ctx, func() (err error) {
			b, err = c.place.AdvertisedSidecar(ctx, c.subdir, c.filename, r.Attestations)
			return err
		})
		return b, err
	}
	// Not CEP 50's, so that no record tells of it: prefix.dev's.
	b, found, err := v.served(ctx, c, d, ".v0.sigs", sidecarV0)
	if err == nil && !found {
		d.Sidecar = nil
		err = &causeError{causeUnattested, "", fmt.Errorf("%s lists %s/%s without an attestation, and serves no .v0.sigs", c.place.name, c.subdir, c.filename)}
	}
	return b, err
}

// named reads the sidecar whose URL was given.
func (v *verifyCmd) named(ctx context.Context, c candidate, d *verdict) ([]byte, error) {
	kind := sidecarMutable
	sha256, immutable := strings.CutPrefix(c.sidecar, ".sigs.")
	switch {
	case immutable:
		kind = sidecarImmutable
	case c.sidecar == ".v0.sigs":
		kind = sidecarV0
	}
	b, found, err := v.served(ctx, c, d, c.sidecar, kind)
	switch {
	case err != nil:
		return nil, err
	case !found:
		return nil, &attest.Error{Code: attest.CodeSidecarAbsent, Err: fmt.Errorf("%s does not serve %s/%s%s", c.place.name, c.subdir, c.filename, c.sidecar)}
	case immutable:
		return b, attest.CheckSidecar(b, sha256)
	}
	return b, nil
}

func (v *verifyCmd) served(ctx context.Context, c candidate, d *verdict, suffix, kind string) (b []byte, found bool, err error) {
	d.Sidecar.Kind, d.Sidecar.Name = kind, c.filename+suffix
	err = again(ctx, func() (err error) {
		b, found, err = c.place.ServedSidecar(ctx, c.subdir, c.filename, suffix)
		return err
	})
	if found {
		sum := sha256.Sum256(b)
		d.Sidecar.SHA256 = hex.EncodeToString(sum[:])
	}
	return b, found, err
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

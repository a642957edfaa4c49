package main

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/provenance"
)

// verifySourceCmd verifies one source archive, as the stage sources does.
type verifySourceCmd struct {
	Source string `arg:"" name:"source" help:"Source archive: a file, or its download URL."`
	command.TrustFlags
	Publishers []string `name:"publisher" required:"" sep:"none" placeholder:"github:OWNER/REPO" help:"Who must have published it: github:owner/repo, gitlab:group/project, or IDENTITY@@ISSUER as certificates have them. Each one given has to have signed."`
	Bundles    []string `name:"bundle" sep:"none" placeholder:"FILE|URL" help:"Bundle or provenance: a file or an https URL, one or several (default: for the Python package index its integrity API; for a file the one beside it, <file>.sigstore.json)."`
	SHA256     string   `name:"sha256" placeholder:"HEX" help:"SHA-256 of the archive. Of a URL without it, the archive is downloaded."`
	Predicate  string   `name:"predicate-type" placeholder:"URI" help:"Only attestations of this predicate type count."`
	RequireLog bool     `help:"Refuse attestations that come without what is needed to check the transparency log."`
}

// maxArchive is how much of an archive is downloaded to be hashed.
const maxArchive = 8 << 30

var hex64 = regexp.MustCompile(`^[0-9a-f]{64}$`)

// Run verifies.
func (c *verifySourceCmd) Run(ctx context.Context, env *command.Env) error {
	src := provenance.Source{URLs: []string{c.Source}, Attestation: &provenance.Attestation{PredicateType: c.Predicate}}
	for _, text := range c.Publishers {
		p, err := publisher(text)
		if err != nil {
			return command.Usage(hintOf(err), fmt.Errorf("--publisher: %w", err))
		}
		src.Attestation.Publishers = append(src.Attestation.Publishers, p)
	}
	given, err := c.bundles(&src)
	if err != nil {
		return err
	}
	if src.SHA256, err = c.digest(ctx); err != nil {
		return err
	}
	tr, _, err := c.Trust(ctx, "")
	if err != nil {
		return err
	}
	v, err := provenance.NewVerifier(tr)
	if err != nil {
		return command.Usage("give the trusted_root.json of the Sigstore instance", err)
	}
	fetcher := provenance.NewFetcher(provenance.FetchOptions{UserAgent: "hallmark/" + command.Version()})
	o, retry, err := provenance.NewChecker(v, fetcher).CheckSource(ctx, src, provenance.Policy{Mode: provenance.ModeRequire, RequireLog: c.RequireLog}, given)
	if err != nil {
		return err
	}
	err = env.Result(struct {
		Schema string `json:"schema"`
		provenance.Outcome
	}{"hallmark.source-verification/1", o}, func(w io.Writer) { sourceText(w, c.Source, o) })
	switch {
	case err != nil:
		return err
	case o.Status == provenance.StatusVerified:
		return nil
	case retry != nil:
		return &command.Error{Code: command.ExitUpstream, Err: retry, Item: c.Source, Hint: "run the same command again"}
	default:
		return &command.Error{Code: command.ExitFailed, Err: errors.New("the source does not verify"), Item: c.Source}
	}
}

// publisher reads a shorthand, or SAN@@ISSUER for identities that have none.
func publisher(text string) (provenance.Publisher, error) {
	if identity, issuer, ok := strings.Cut(text, "@@"); ok && identity != "" && issuer != "" {
		return provenance.Publisher{Identity: identity, Issuer: issuer}, nil
	}
	return provenance.ParsePublisher(text)
}

func hintOf(err error) string {
	if e, ok := errors.AsType[*provenance.Error](err); ok {
		return e.Hint
	}
	return ""
}

// bundles reads those that are files, and leaves the others to the checker.
func (c *verifySourceCmd) bundles(src *provenance.Source) (given []provenance.Bundle, err error) {
	list := c.Bundles
	if beside := c.Source + ".sigstore.json"; len(list) == 0 && !isURL(c.Source) {
		if _, err := os.Stat(beside); err != nil {
			return nil, command.Usage("give --bundle FILE or URL", fmt.Errorf("there is no %s, and of a file no bundle URL can be derived", beside))
		}
		list = []string{beside}
	}
	for _, b := range list {
		if isURL(b) {
			src.Attestation.BundleURLs = append(src.Attestation.BundleURLs, b)
			continue
		}
		data, err := readMaterial(b)
		if err != nil {
			return nil, err
		}
		found, err := provenance.ParseResponse(data)
		if err != nil {
			return nil, &command.Error{Code: command.ExitFailed, Item: b, Err: fmt.Errorf("reading the bundle: %w", err)}
		}
		given = append(given, found...)
	}
	return given, nil
}

func isURL(s string) bool { return strings.HasPrefix(s, "https://") || strings.HasPrefix(s, "http://") }

// digest is the archive's: as given, compared with the file's where there is one.
func (c *verifySourceCmd) digest(ctx context.Context) (string, error) {
	want := strings.ToLower(c.SHA256)
	if want != "" && !hex64.MatchString(want) {
		return "", command.Usage("", fmt.Errorf("--sha256: %q is not 64 hex digits", c.SHA256))
	}
	if isURL(c.Source) {
		if want != "" {
			return want, nil
		}
		return download(ctx, c.Source)
	}
	have, err := fileDigest(ctx, c.Source)
	if err != nil {
		return "", err
	}
	if cmp.Or(want, have) != have {
		return "", &command.Error{Code: command.ExitFailed, Item: c.Source, Err: fmt.Errorf("%s has the SHA-256 %s, and %s is asked for", filepath.Base(c.Source), have, want)}
	}
	return have, nil
}

// download hashes what a URL has. Nothing is kept.
func download(ctx context.Context, rawURL string) (string, error) {
	fail := func(err error) (string, error) {
		if ue, ok := errors.AsType[*url.Error](err); ok {
			err = ue.Err // its text has the URL, query and all
		}
		return "", &command.Error{Code: command.ExitUpstream, Err: fmt.Errorf("downloading the source: %w", err), Hint: "give --sha256 HEX to go without"}
	}
	if !strings.HasPrefix(rawURL, "https://") {
		return "", command.Usage("give --sha256 HEX", errors.New("the source is downloaded by https alone"))
	}
	client := &http.Client{CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if r.URL.Scheme != "https" || len(via) > 5 {
			return errors.New("a redirect does not lead to https, or there are too many")
		}
		return nil
	}}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, rawURL, nil)
	if err != nil {
		return "", command.Usage("", err)
	}
	resp, err := client.Do(req)
	if err != nil {
		return fail(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fail(fmt.Errorf("the server answered %s", resp.Status))
	}
	h := sha256.New()
	if n, err := io.Copy(h, io.LimitReader(resp.Body, maxArchive+1)); err != nil {
		return fail(err)
	} else if n > maxArchive {
		return fail(errors.New("it is too large"))
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func sourceText(w io.Writer, source string, o provenance.Outcome) {
	if o.Status != provenance.StatusVerified {
		fmt.Fprintf(w, "%s  %s\n  cause: %s (%s)\n", strings.ToUpper(string(o.Status)), source, o.Message, o.Cause)
		if o.Hint != "" {
			fmt.Fprintf(w, "  hint:  %s\n", o.Hint)
		}
	} else {
		fmt.Fprintf(w, "verified  %s  sha256 %s\n", source, o.SHA256)
		for _, s := range o.Signers {
			fmt.Fprintf(w, "  signed by %s (%s), transparency log %s\n", s.Identity, s.Issuer, s.Log)
		}
	}
	for _, s := range o.Warnings {
		fmt.Fprintf(w, "  warning: %s\n", s)
	}
}

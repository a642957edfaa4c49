// Package provenance finds and verifies the attestations of a package's sources. The recipe that a package holds, the
// attestations embedded beside it and the answers of upstream hosts flow in; for each source an Outcome flows out: who
// published it, whether that is who the recipe or a policy names, and whether the transparency log says so too.
//
//	info/recipe/ ──▶ Recipe ──▶ sources ──▶ bundle URLs ──▶ Fetcher ──▶ bundles ──▶ Verifier ──▶ Outcome
//	                               └──── attestations/*.sigstore.json ────▲
//
// The rules are those of the draft CEP "Source Attestation Verification in Recipes" (conda/ceps#168), the format of index
// responses is PEP 740's. What the draft leaves open is decided for refusal: keys of an attestation block that are not
// known here are errors, and bundles come by https alone.
//
// Nothing here has credentials, and nothing that is read is believed before it is verified. All types are safe for
// concurrent use unless they say otherwise.
package provenance

import (
	"errors"
	"fmt"
	"strings"
	"time"
)

// Code is the stable name of why a source is not verified. Beside these there are the codes of package attest, for what
// is wrong with a bundle itself.
type Code string

// The codes.
const (
	CodeRecipeMalformed  Code = "recipe.malformed"           // no YAML, or not of a recipe's form
	CodeRecipeTooLarge   Code = "recipe.too-large"           // more bytes, sources or publishers than any recipe has
	CodeRecipeTemplate   Code = "recipe.template"            // it was not rendered, so what it asks for is not known
	CodeRecipeField      Code = "recipe.unknown-field"       // a constraint that is not known here
	CodeRecipeNotURL     Code = "recipe.attestation-not-url" // an attestation block on a git or path source
	CodeRecipeNoSHA256   Code = "recipe.no-sha256"           // an attestation block without a sha256 beside it
	CodePublishersEmpty  Code = "publishers.empty"           // nobody is named: an empty list denies
	CodePublisher        Code = "publisher.malformed"        //
	CodePublisherRef     Code = "publisher.ref"              // @ref, which the draft reserves
	CodePublisherUnknown Code = "publisher.unknown-provider" // neither github: nor gitlab:
	CodeMismatch         Code = "publisher.mismatch"         // signed by somebody else
	CodeIssuer           Code = "publisher.issuer-mismatch"  // the identity is right, the issuer is not
	CodeBundleURL        Code = "bundle-url.invalid"         // not an https URL, or one with credentials
	CodeNoBundleURL      Code = "bundle-url.none"            // none is given, and none can be derived for this host
	CodeMissing          Code = "attestation.missing"        // the upstream has none
	CodeOtherArtifact    Code = "attestation.other-artifact" // none of them is about these bytes
	CodePredicateType    Code = "attestation.predicate-type" // none of them has the type that is asked for
	CodeLogAbsent        Code = "log.absent"                 // the policy asks for the log, and the material has no entry to check
	CodeResponse         Code = "response.malformed"         // neither a bundle nor provenance
	CodeResponseTooLarge Code = "response.too-large"         //
	CodeEmbedded         Code = "embedded.changed"           // an embedded bundle has other bytes than the recipe says
	CodeUnavailable      Code = "fetch.unavailable"          // temporary: try again
	CodeFetchRefused     Code = "fetch.refused"              // the host, or this side, refuses the request
	CodeRedirect         Code = "fetch.redirect"             // too many redirects, or one to where nothing is fetched from
	CodePolicy           Code = "policy.invalid"             // the policy for hosts itself is wrong
	CodeFile             Code = "package.unreadable-info"    // the package's info/ cannot be read
)

// Error says why a source is not verified. It never contains a credential or a URL's query.
type Error struct {
	Code Code
	Err  error
	Hint string
	// Temporary says that trying again may help; RetryAfter is the upstream's own wish then, or 0, and Since when this
	// began to fail.
	Temporary  bool
	RetryAfter time.Duration
	Since      time.Time
}

// Error gives the cause; the code and the hint are for the caller to show.
func (e *Error) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

func refuse(code Code, hint, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hint, Err: fmt.Errorf(format, args...)}
}

// CodeOf gives the code of the first *Error in err's tree, and "" if there is none.
func CodeOf(err error) Code {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Code
	}
	return ""
}

// Greatest sizes; beyond them nothing is read.
const (
	maxRecipe     = 1 << 20 // bytes; what YAML makes of it takes a hundred times that
	maxSources    = 256     // in one package
	maxPublishers = 64      // of one source
	maxBundleURLs = 16      // of one source
	maxBundles    = 64      // of one source
	maxResponse   = 4 << 20 // bytes of one answer
	maxURL        = 2083    // bytes
	maxMessage    = 500     // bytes of an outcome's message
)

// clip keeps a message within bounds and on one line: parts of it may be somebody else's.
func clip(s string, n int) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return ' '
		}
		return r
	}, s)
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "") + "…"
}

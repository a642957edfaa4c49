package provenance

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/attest"
)

// Source is one URL source of a recipe.
type Source struct {
	URLs   []string // the mirrors of one file; at least one
	SHA256 string   // lower-case hex; "" if the recipe declares none
	// Attestation is the recipe's block; nil if it has none.
	Attestation *Attestation
	// Err is what is wrong with the block; Attestation is nil then.
	Err *Error
}

// Attestation is the attestation block of a source (draft CEP, "Recipe Schema").
type Attestation struct {
	Publishers    []Publisher
	BundleURLs    []string
	PredicateType string
	// Verified are the bundles that the builder says it embedded. An index, not evidence.
	Verified []Embedded
}

// Embedded is a bundle in the package (draft CEP, "Embedding verified bundles in the built package").
type Embedded struct {
	Path   string // relative to info/recipe/
	SHA256 string // of the file, lower-case hex
}

// shown is the URL that outcomes name; "" if there is none, as of a source that is wrong in that.
func (s Source) shown() string {
	if len(s.URLs) == 0 {
		return ""
	}
	return safeURL(s.URLs[0])
}

// filename is the source archive's: the last segment of its URL.
func filename(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return ""
	}
	name := path.Base(u.Path)
	if name == "." || name == "/" {
		return ""
	}
	return name
}

// hostOf is a URL's host in one form: lower case, without port and final dot.
func hostOf(u *url.URL) string { return strings.TrimSuffix(attest.LowerASCII(u.Hostname()), ".") }

// pypiHosts are the hosts whose bundle URL can be derived: the draft's closed list.
var pypiHosts = []string{"pypi.org", "pypi.io", "files.pythonhosted.org"}

func isPyPI(host string) bool { return slices.Contains(pypiHosts, host) }

// checkBundleURL refuses what is not fetched.
func checkBundleURL(raw string) *Error {
	u, err := url.Parse(raw)
	switch {
	case err != nil || len(raw) > maxURL || u.Host == "":
		return refuse(CodeBundleURL, "", "the bundle URL is not a URL")
	case u.Scheme != "https":
		return refuse(CodeBundleURL, "", "the bundle URL at %s is not https", clip(u.Host, 100))
	case u.User != nil:
		return refuse(CodeBundleURL, "what is fetched has to be public", "the bundle URL at %s has credentials", clip(u.Host, 100))
	}
	return nil
}

// bundleURLs are where the source's bundles are (draft CEP, "Bundle Discovery"): those of the block, else the one that can
// be derived. pypi is the index's base URL.
func (s Source) bundleURLs(pypi string) ([]string, *Error) {
	if a := s.Attestation; a != nil && len(a.BundleURLs) > 0 {
		for _, u := range a.BundleURLs {
			if err := checkBundleURL(u); err != nil {
				return nil, err
			}
		}
		return a.BundleURLs, nil
	}
	var first *Error
	for _, u := range s.URLs {
		// The mirrors serve the same bytes, or the digest would not hold: whichever can be derived is as good.
		derived, err := integrityURL(u, pypi)
		if err == nil {
			return []string{derived}, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, first
}

// sdist are the extensions of source distributions.
var sdist = []string{".tar.gz", ".tar.bz2", ".tar.xz", ".tgz", ".zip"}

// IntegrityURL derives from a download URL at the Python package index the URL of the file's provenance. The error is an
// *Error with CodeNoBundleURL.
func IntegrityURL(download string) (string, error) {
	u, err := integrityURL(download, defaultPyPI)
	if err != nil {
		return "", err
	}
	return u, nil
}

const defaultPyPI = "https://pypi.org"

func integrityURL(download, pypi string) (string, *Error) {
	const hint = "set bundle_url in the recipe"
	u, err := url.Parse(download)
	if err != nil || u.Host == "" {
		return "", refuse(CodeNoBundleURL, hint, "the source's URL is none")
	}
	if !isPyPI(hostOf(u)) {
		return "", refuse(CodeNoBundleURL, hint, "there is no bundle_url, and for %s none can be derived", clip(u.Host, 100))
	}
	name := path.Base(u.Path)
	project, version, ok := splitDistribution(name)
	if !ok {
		return "", refuse(CodeNoBundleURL, hint, "%q names no project and version, so no bundle URL can be derived", clip(name, 200))
	}
	return pypi + "/integrity/" + url.PathEscape(project) + "/" + url.PathEscape(version) + "/" + url.PathEscape(name) + "/provenance", nil
}

// splitDistribution takes a distribution's file name apart: wheels at their first hyphens, source distributions at the
// last one (PEP 625). The project is normalised.
func splitDistribution(name string) (project, version string, ok bool) {
	if stem, is := strings.CutSuffix(name, ".whl"); is {
		fields := strings.Split(stem, "-")
		if len(fields) < 5 {
			return "", "", false
		}
		project, version = fields[0], fields[1]
	} else {
		stem := ""
		for _, ext := range sdist {
			if s, is := strings.CutSuffix(name, ext); is {
				stem = s
				break
			}
		}
		i := strings.LastIndexByte(stem, '-')
		if i < 0 {
			return "", "", false
		}
		project, version = stem[:i], stem[i+1:]
	}
	project = NormalizeProject(project)
	return project, version, strings.Trim(project, "-") != "" && strings.Trim(version, ".") != ""
}

var separators = regexp.MustCompile(`[-_.]+`)

// NormalizeProject gives a project's name as PEP 503 has it: lower case, and each run of "-", "_" and "." one "-".
func NormalizeProject(name string) string {
	return separators.ReplaceAllString(attest.LowerASCII(name), "-")
}

// safeURL is a URL that can be shown: without credentials, query and fragment.
func safeURL(raw string) string {
	u, err := url.Parse(raw)
	if err != nil {
		return "(not a URL)"
	}
	v := url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path, RawPath: u.RawPath, Opaque: ""}
	return clip(v.String(), maxURL)
}

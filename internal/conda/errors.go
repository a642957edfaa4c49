package conda

import "fmt"

// Codes of the errors that say that a package can never pass. They are stable: programs group by them.
const (
	CodeNameInvalid        = "name.invalid"                 // file name is not CEP 26's
	CodeSubdirInvalid      = "subdir.invalid"               // subdir is not CEP 26's
	CodeEmpty              = "package.empty"                // no bytes
	CodeNotAPackage        = "package.not-a-package"        // other bytes than the file name's extension says
	CodeTruncated          = "package.truncated"            // the end is missing
	CodeCorrupt            = "package.corrupt"              // a checksum or a structure is wrong
	CodeBadZip             = "package.bad-zip"              // a ZIP that two readers could understand differently
	CodeCompressedZipEntry = "package.compressed-zip-entry" // CEP 35: the ZIP MUST NOT be compressed
	CodeInnerNameMismatch  = "package.inner-name-mismatch"  // info-/pkg- tarball is not named after the file
	CodeMissingMetadata    = "package.missing-metadata"     // no metadata.json that says format version 2
	CodeNoIndex            = "package.no-index"             // no info/index.json
	CodeIndexInvalid       = "package.index-invalid"        // info/index.json cannot become a record
	CodeIndexMismatch      = "package.index-mismatch"       // info/index.json is another package's than the file name
	CodeNoSubdir           = "package.no-subdir"            // nothing says which subdir the package is for
	CodeRunExportsInvalid  = "package.run-exports-invalid"  // info/run_exports.json is not CEP 34's
	CodeInfoInvalid        = "package.info-invalid"         // another file of info/ is not CEP 34's
	CodePathTraversal      = "package.path-traversal"       // a path or link leaves the package
	CodeDuplicateEntry     = "package.duplicate-entry"      // the same file twice
	CodeBomb               = "package.bomb"                 // unpacks to more than a package may
)

// Error says that a package can never pass, whatever is tried: its bytes or its name are wrong.
// Errors of reading (the ReaderAt's) and of the context are never an *Error.
type Error struct {
	Code string // one of the Code constants
	Hint string // what a person can do about it
	Err  error  // what was found
}

func (e *Error) Error() string { return e.Err.Error() }
func (e *Error) Unwrap() error { return e.Err }

func refuse(code, format string, args ...any) *Error {
	return &Error{Code: code, Hint: hints[code], Err: fmt.Errorf(format, args...)}
}

const rebuild = "build the package again, or fetch it again from where it came"

// hints is never written to.
var hints = map[string]string{
	CodeNameInvalid:        "name the file <name>-<version>-<build>.conda or .tar.bz2 as CEP 26 says; the name and the version in lower case",
	CodeSubdirInvalid:      "a subdir is noarch or <os>-<arch>, such as linux-64",
	CodeEmpty:              rebuild,
	CodeNotAPackage:        "submit .conda or .tar.bz2 packages, and leave the extension as the build tool wrote it",
	CodeTruncated:          "the copy was cut off: copy or build the package again",
	CodeCorrupt:            "the copy is damaged: copy or build the package again",
	CodeBadZip:             "write the .conda with a current build tool: stored entries one after the other and nothing else",
	CodeCompressedZipEntry: "write the .conda with stored entries (zip -0); CEP 35 allows no compression of the outer ZIP",
	CodeInnerNameMismatch:  "do not rename packages: a .conda holds info- and pkg- tarballs named after itself",
	CodeMissingMetadata:    rebuild,
	CodeNoIndex:            rebuild,
	CodeIndexInvalid:       "correct the recipe or the build tool; the record would break the channel's repodata",
	CodeIndexMismatch:      "do not rename packages: the file name must be <name>-<version>-<build> of info/index.json",
	CodeNoSubdir:           "say which subdir the package is for, or keep it in a folder of that name",
	CodeRunExportsInvalid:  "info/run_exports.json is a list of specs or a map from a known kind to a list of specs",
	CodeInfoInvalid:        "correct the recipe or the build tool; the file is not what CEP 34 says",
	CodePathTraversal:      "do not publish this package: it would write outside its folder",
	CodeDuplicateEntry:     "do not publish this package: tools differ in which of the two files they read",
	CodeBomb:               "do not publish this package; if it is genuine, its metadata is far larger than any known package's",
}

package channel

import (
	"errors"
	"fmt"
)

// ErrContended says that others kept changing the same object for as long as was tried. Trying again later may help.
var ErrContended = errors.New("others kept changing it at the same time")

// Conflict says that the channel has something else under a name. What is published is never overwritten, so that this
// is final.
type Conflict struct {
	Subdir, Filename string
	// Where is what differs: "package", "sidecar", "repodata.json" or "shard".
	Where string
	// Have and Want are SHA-256 digests in lower-case hex; Have may be "" if the channel's record has none.
	Have, Want string
}

func (e *Conflict) Error() string {
	return fmt.Sprintf("%s/%s: the channel's %s has sha256 %s, not %s", e.Subdir, e.Filename, e.Where, e.Have, e.Want)
}

// Removed says that the channel's repodata lists the file as removed (CEP 36). It is not brought back by publishing it
// again: whoever took it out had a reason.
type Removed struct{ Subdir, Filename string }

func (e *Removed) Error() string {
	return fmt.Sprintf("%s/%s: the channel lists it as removed", e.Subdir, e.Filename)
}

// Invalid says that what the caller gave cannot be in a channel: a file name, a subdir, a record, a bundle.
type Invalid struct {
	Subdir, Filename string
	Err              error
}

func (e *Invalid) Error() string { return fmt.Sprintf("%s/%s: %v", e.Subdir, e.Filename, e.Err) }
func (e *Invalid) Unwrap() error { return e.Err }

// Unsigned says that a record was to advertise a sidecar that is not in the store.
type Unsigned struct{ Subdir, Filename string }

func (e *Unsigned) Error() string {
	return fmt.Sprintf("%s/%s: it has no sidecar in the store to advertise", e.Subdir, e.Filename)
}

// Malformed says that an object of the channel cannot be read for what it has to be. Nothing is written over it: a
// person has to look.
type Malformed struct {
	Key string
	Err error
}

func (e *Malformed) Error() string { return fmt.Sprintf("%s: %v", e.Key, e.Err) }
func (e *Malformed) Unwrap() error { return e.Err }

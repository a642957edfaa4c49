package channel

import (
	"fmt"
	"io"
)

// current makes current_repodata.json (CEP 36) and its .zst out of the new repodata.json: the newest version of each name,
// and what these depend on, by match.Newest. Records and all that is no record stand there as in repodata.json, byte for
// byte and in its order. What has no name, or a version that is none, is left out. It gives nil where there is to be none.
//
// Dependencies are followed until nothing is missing, where conda-index stops after once: what a solver does not find here
// has it read all of repodata.json, so that a few more records are cheaper than one too few.
//
// A client that does not know of "v3" (CEP 48) is not to lose a name because its newest version is in there. So the
// selection is made without v3, and where there is any, also with it; both are in the document.
//
// Memory grows with the names and with the selected records. The rest is read from the disk, what matters of a record
// some three times.
func (m *monolith) current(doc *draft) (current, zst *draft, err error) {
	if m.lines == nil {
		return nil, nil, nil
	}
	defer func() {
		if err != nil {
			current.remove()
			zst.remove()
			current, zst, err = nil, nil, fmt.Errorf("making %s: %w", m.key(currentName), err)
		}
	}()
	keys, err := m.lines.newest()
	if err != nil {
		return nil, nil, err
	}
	if current, err = newDraft(m.dir); err != nil {
		return nil, nil, err
	}
	if zst, err = newDraft(m.dir); err != nil {
		return current, nil, err
	}
	e, err := newZst(zst)
	if err != nil {
		return current, zst, err
	}
	defer e.Close()
	g := &merging{delta: newDelta(m.dir)} // nothing changes
	if err := g.merge(m.lines.pieces(doc.file, keys), io.MultiWriter(current, e)); err != nil {
		return current, zst, err
	}
	return current, zst, e.Close()
}

package queue

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// mendEvery is how often it is looked whether the embedded server can write again; mendRoom is what must be free by then.
const (
	mendEvery = time.Second
	mendRoom  = 1 << 20
)

// mender starts the embedded server anew when it cannot write any more. A stream whose write failed (ENOSPC, EDQUOT, EIO,
// EMFILE) takes nothing and answers nobody until then, also when there has long been room again; a server that has used up
// its limit refuses what comes, though what else lay on the disk may be gone since.
type mender struct {
	e       *Server
	dir     string
	o       EmbedOptions
	limit   int64       // of what is stored, as the server runs; only start and, after it, watch use it and reserve
	reserve int64       // what stays free of the disk; from the first start on, else a limit that grows would end at a full disk
	trouble chan string // what the server said last; has room for one
	waits   atomic.Bool // mending, for the time being
	stop    chan struct{}
	ended   sync.WaitGroup
}

// Stuck reports whether the server takes nothing for now, since its folder cannot be written, and mends itself when it can.
func (e *Server) Stuck() bool { return e.mender.waits.Load() }

// What the server says when a stream is stuck, when JetStream has been shut down for it, and when the limit is reached. It
// has no other way to tell; TestEmbeddedDiskFull fails if the words change.
var (
	stuckSaid = []string{"critical write error", "will be DISABLED", "disabling JetStream"}
	limitSaid = []string{"resource limits exceeded"}
)

func says(said string, any []string) bool {
	for _, a := range any {
		if strings.Contains(strings.ToLower(said), strings.ToLower(a)) {
			return true
		}
	}
	return false
}

// hear takes what the server says. It never waits: the server holds locks when it speaks.
func (m *mender) hear(said string) {
	if !says(said, stuckSaid) && (m.o.MaxStore != 0 || !says(said, limitSaid)) {
		return
	}
	select {
	case m.trouble <- said:
	default:
	}
}

// watch mends what is heard of, until the server is closed.
func (m *mender) watch() {
	for {
		select {
		case said := <-m.trouble:
			if !m.mend(said) {
				return
			}
		case <-m.stop:
			return
		}
	}
}

// tell says in the log what the matter is, and reports whether streams are stuck.
func (m *mender) tell(said string) (stuck bool) {
	if stuck = says(said, stuckSaid); stuck {
		m.e.log.Error("the queue's folder cannot be written; work goes on by itself when it can, and nothing is lost",
			"folder", m.dir, "error", said, "hint", "free space on its disk, or file descriptors; ending this run and starting it again does no harm")
	} else {
		m.e.log.Warn("the queue has no room; work goes on by itself when there is some", "folder", m.dir, "limit", m.limit,
			"hint", "free space on its disk")
	}
	return stuck
}

// mend waits until a new server can do what the old one cannot, and starts it. It is false when the server is closed.
func (m *mender) mend(said string) bool {
	tick := time.NewTicker(mendEvery)
	defer tick.Stop()
	m.waits.Store(true)
	defer m.waits.Store(false)
	stuck, down := m.tell(said), false
	for {
		select {
		case said = <-m.trouble:
			if !stuck && says(said, stuckSaid) {
				stuck = m.tell(said)
			}
			continue
		case <-tick.C:
		case <-m.stop:
			return false
		}
		if !m.ready(stuck) {
			continue
		}
		m.end()
		if err := m.e.start(m.dir, m.o); err != nil {
			if !down {
				m.e.log.Warn("the queue's server does not start again yet", "folder", m.dir, "error", err)
			}
			stuck, down = true, true
			continue
		}
		m.e.log.Warn("the queue goes on", "folder", m.dir, "limit", m.limit)
		return true
	}
}

// end ends the server, and forgets what it said until then.
func (m *mender) end() {
	s := m.e.running()
	s.Shutdown()
	s.WaitForShutdown()
	select {
	case <-m.trouble:
	default:
	}
}

// ready says whether a new server could write: the folder takes a file of mendRoom, and, where only the limit was the
// trouble, the new limit would be an eighth higher.
func (m *mender) ready(stuck bool) bool {
	if !stuck {
		limit, _, err := defaultMaxStore(m.dir, m.reserve)
		return err == nil && limit > m.limit+m.limit/8
	}
	f, err := os.CreateTemp(m.dir, "room-")
	if err != nil {
		return false
	}
	_, err = f.Write(make([]byte, mendRoom))
	err = errors.Join(err, f.Sync(), f.Close(), os.Remove(f.Name()))
	return err == nil
}

// sweepRoom removes what ready left behind in a process that was killed.
func sweepRoom(dir string) error {
	found, err := filepath.Glob(filepath.Join(dir, "room-*"))
	for _, f := range found {
		err = errors.Join(err, os.Remove(f))
	}
	return err
}

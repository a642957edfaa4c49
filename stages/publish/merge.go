package publish

import "time"

// merger sees to it that a subdir's documents follow its shards. It exists as long as they may be behind.
type merger struct {
	updated chan struct{} // gets a value with each update
}

// behind notes that a subdir has been updated.
func (s *Stage) behind(subdir string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m := s.mergers[subdir]
	if m == nil {
		if s.open.Err() != nil {
			return
		}
		m = &merger{updated: make(chan struct{}, 1)}
		s.mergers[subdir] = m
		s.writers.Go(func() { s.merge(subdir, m) })
		return
	}
	select {
	case m.updated <- struct{}{}:
	default:
	}
}

// merge merges a subdir's documents when nothing has been written to it for a while, and at the latest after the interval;
// it ends when they are up to date, or with the stage.
func (s *Stage) merge(subdir string, m *merger) {
	wait := s.options.Idle
	for due := time.Now().Add(s.options.Interval); ; {
		idle := time.NewTimer(min(wait, time.Until(due)))
		select {
		case <-m.updated:
			idle.Stop()
			if time.Now().Before(due) {
				continue
			}
		case <-idle.C:
		case <-s.open.Done():
			idle.Stop()
			return
		}
		due = time.Now().Add(s.options.Interval)
		if err := s.catchUp(subdir); err != nil {
			if s.open.Err() != nil {
				return
			}
			s.options.Log.Warn("the documents of a subdir could not be merged from its shards", "subdir", subdir, "error", err)
			wait = min(s.options.Interval, time.Minute)
			due = time.Now().Add(wait)
			continue
		}
		wait = s.options.Idle
		if s.upToDate(subdir, m) {
			return
		}
	}
}

// upToDate strikes the merger off, unless there was an update meanwhile.
func (s *Stage) upToDate(subdir string, m *merger) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	select {
	case <-m.updated:
		return false
	default:
		delete(s.mergers, subdir)
		return true
	}
}

func (s *Stage) catchUp(subdir string) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{p}
		}
	}()
	return s.index.CatchUp(s.open, subdir)
}

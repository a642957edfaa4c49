package channel

import (
	"context"
	"errors"
	"fmt"
)

// syncZst makes repodata.json.zst equal to repodata.json. etag is of the repodata.json that the caller wrote or read last;
// written are its bytes, if it was the caller who wrote them.
//
// Each round reads the ETag of the .zst, then repodata.json, then writes the .zst over exactly that ETag.
//
// That several writers end up with equal documents: let the last write of repodata.json be at t0, by A. A's rounds begin
// after t0 and so read the last repodata.json; A leaves with a .zst that held it at some t1 > t0, because it wrote it so or
// found it so. A write of the .zst by any B after t1 is over a state that B saw, which was the current one when B wrote,
// so that B saw it at or after the time at which that state came to be. If that is the state of t1 or a later one, it came
// to be after t0 (nobody can compress what is not written yet), so B read repodata.json after t0 and wrote the same thing
// again. So from t1 on the .zst holds the last repodata.json. The argument needs that no state comes back under the same
// ETag, which holds because documents only grow: every change is to a newer sidecar or adds a record.
//
// If A is cut off between the two, its items are not acknowledged, and the Update that repeats them comes here again.
func (c *Channel) syncZst(ctx context.Context, s *subdir, etag string, written []byte) error {
	jsonKey, zstKey := s.name+"/"+repodataName, s.name+"/"+zstName
	for a := c.attempts(); ; {
		if !a.next(ctx) {
			return fmt.Errorf("writing %s: %w", zstKey, a.err)
		}
		zst, _, err := c.head(ctx, zstKey)
		if err != nil {
			return err
		}
		now, found, err := c.head(ctx, jsonKey)
		if err != nil {
			return err
		}
		if !found {
			return &Malformed{Key: jsonKey, Err: errors.New("it was there a moment ago and is gone")}
		}
		if now.ETag != "" && s.equal == [2]string{now.ETag, zst.ETag} {
			return nil
		}
		b := written
		if b == nil || now.ETag != etag {
			if b, now, found, err = c.read(ctx, jsonKey, maxRepodata); err != nil {
				return err
			}
			if !found {
				continue
			}
			// Nobody knows whether they are equal already: if so, no byte is to change.
			if old, info, found, err := c.read(ctx, zstKey, maxRepodata); err != nil {
				return err
			} else if found && info.ETag == zst.ETag && decompressesTo(old, b) {
				s.equal = [2]string{now.ETag, zst.ETag}
				return nil
			}
		}
		info, won, err := c.put(ctx, zstKey, c.codec.repodata.EncodeAll(b, nil), over(asZst, zst.ETag))
		if err != nil {
			return err
		}
		if won {
			s.equal = [2]string{now.ETag, info.ETag}
			return nil
		}
	}
}

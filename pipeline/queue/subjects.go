package queue

import (
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
)

// Names of the streams and of the buckets.
const (
	StreamJobs       = "JOBS"
	StreamEvents     = "EVENTS"
	StreamQuarantine = "QUARANTINE"
	BucketCampaigns  = "campaigns"
	BucketSuspects   = "suspects"
	BucketBudgets    = "budgets"
)

// eventPrefix opens every event's subject. The tokens after it are
// <event>.<campaign>.<channel>.<subdir>.<name>.<id>; this package relies on the first two and on nothing else.
const eventPrefix = "attest.v1."

const upperHex = "0123456789ABCDEF"

// Token makes any string one token of a NATS subject: it percent-encodes '.', '*', '>', '%', blanks and control
// characters. Different strings give different tokens; the empty string gives "%".
func Token(s string) string {
	if s == "" {
		return "%"
	}
	var b strings.Builder
	for i := range len(s) {
		switch c := s[i]; {
		case c <= ' ' || c == 0x7f || c == '.' || c == '*' || c == '>' || c == '%':
			b.WriteByte('%')
			b.WriteByte(upperHex[c>>4])
			b.WriteByte(upperHex[c&15])
		default:
			b.WriteByte(c)
		}
	}
	return b.String()
}

// Untoken is the inverse of Token. A token that Token does not produce is an error.
func Untoken(t string) (string, error) {
	if t == "%" {
		return "", nil
	}
	var b strings.Builder
	for i := 0; i < len(t); i++ {
		if t[i] != '%' {
			b.WriteByte(t[i])
			continue
		}
		if i+2 >= len(t) {
			return "", fmt.Errorf("subject token %q: cut short", t)
		}
		hi, lo := strings.IndexByte(upperHex, t[i+1]), strings.IndexByte(upperHex, t[i+2])
		if hi < 0 || lo < 0 {
			return "", fmt.Errorf("subject token %q: bad escape", t)
		}
		b.WriteByte(byte(hi<<4 | lo))
		i += 2
	}
	if s := b.String(); Token(s) == t {
		return s, nil
	}
	return "", fmt.Errorf("subject token %q: not in its only form", t)
}

// segmentName is what a segment may be called: it is a stage's name, and part of a consumer's.
var segmentName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

func checkSegment(segment string) error {
	if !segmentName.MatchString(segment) {
		return fmt.Errorf("segment name %q: want 1 to 64 of a-z, 0-9, '-' and '_'", segment)
	}
	return nil
}

// retryToken stands between an item's id and the number of its retry, in the subject of a job that came back from
// quarantine. So a retry takes a subject of its own in every segment: the first job stays, and the number of items that were
// enqueued is never in doubt.
const retryToken = "retry"

func jobSubject(segment, campaign, id string, retry int) string {
	s := "job." + Token(segment) + "." + Token(campaign) + "." + Token(id)
	if retry > 0 {
		s += "." + retryToken + "." + strconv.Itoa(retry)
	}
	return s
}

// anySegment is a job's subject with a wildcard for its segment.
func anySegment(jobSubject string) string {
	_, tail, _ := strings.Cut(strings.TrimPrefix(jobSubject, "job."), ".")
	return "job.*." + tail
}

// retryFilter are the jobs of a segment that came back from quarantine.
func retryFilter(segment, campaign string) string {
	return "job." + Token(segment) + "." + Token(campaign) + ".*." + retryToken + ".*"
}

// parseJob reads what follows the campaign in a job's subject: the item's id and the number of its retry.
func parseJob(tail string) (id string, retry int, err error) {
	token, rest, _ := strings.Cut(tail, ".")
	if id, err = Untoken(token); err == nil && id == "" {
		err = errors.New("no item id")
	}
	if err == nil && len(tail) > len(token) {
		n, ok := strings.CutPrefix(rest, retryToken+".")
		if retry, err = strconv.Atoi(n); !ok || err != nil || retry < 1 || strconv.Itoa(retry) != n {
			err = errors.New("no retry's number")
		}
	}
	return id, retry, err
}

func jobFilter(segment, campaign string) string {
	return "job." + Token(segment) + "." + Token(campaign) + ".>"
}

func quarantineSubject(campaign, id string) string {
	return "quarantine." + Token(campaign) + "." + Token(id)
}

func quarantineFilter(campaign string) string { return "quarantine." + Token(campaign) + ".>" }

func eventFilter(event, campaign string) string {
	return eventPrefix + Token(event) + "." + Token(campaign) + ".>"
}

// eventOf returns the event's token of an event's subject, and false if it is none.
func eventOf(subject string) (string, bool) {
	rest, ok := strings.CutPrefix(subject, eventPrefix)
	if !ok {
		return "", false
	}
	event, _, ok := strings.Cut(rest, ".")
	return event, ok
}

// siblingEvent is the subject of another event of the same item.
func siblingEvent(subject, event string) string {
	rest := subject[len(eventPrefix):]
	_, tail, _ := strings.Cut(rest, ".")
	return eventPrefix + Token(event) + "." + tail
}

// unknownToken is what the event's encoder writes for a subdir or name that is not known (yet).
const unknownToken = "_"

// siblingWhere is siblingEvent with other tokens for subdir and name: "*" for whatever they are, unknownToken for the event
// of an item that ended before they were known.
func siblingWhere(subject, event, subdirAndName string) string {
	t := strings.Split(siblingEvent(subject, event), ".")
	if len(t) == 8 {
		t[5], t[6] = subdirAndName, subdirAndName
	}
	return strings.Join(t, ".")
}

// unknownFilter are the campaign's events of one kind whose items ended before subdir and name were known.
func unknownFilter(event, campaign string) string {
	return eventPrefix + Token(event) + "." + Token(campaign) + ".*." + unknownToken + "." + unknownToken + ".*"
}

// ConsumerName is the name of the durable consumer of a campaign's segment: "<segment>@<campaign>". Neither part can
// hold an '@', so no two of them share a name.
func ConsumerName(campaign, segment string) string { return segment + "@" + campaign }

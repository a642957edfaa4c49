package pipeline

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Campaign is a named set of items with one channel, one policy and one signer. It is what the campaigns bucket holds.
type Campaign struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	State   State     `json:"state"`
	// To is where it writes: a directory's absolute path, s3://bucket/prefix, or https://host/name on a server that keeps its
	// own index.
	To string `json:"to"`
	// ChannelURL is what is attested as CEP 27's targetChannel: a public http(s) URL. Empty only if NoTargetChannel is set.
	ChannelURL      string `json:"channelURL,omitempty"`
	NoTargetChannel bool   `json:"noTargetChannel,omitempty"`
	// Identity and Issuer are the signer that the campaign was started with; a worker that would sign as somebody else
	// refuses. Both are "" if the Policy alone says who may sign, or nothing is signed.
	Identity string `json:"identity"`
	Issuer   string `json:"issuer"`
	// Live puts the campaign in the live lane: its items come before those of other campaigns, where a worker serves both. It is
	// for small submissions that somebody waits for.
	Live bool `json:"live,omitempty"`
	// Policy says whose attestations count; nil stands for those of Identity and Issuer, and publish attestations alone.
	Policy *Policy `json:"policy,omitempty"`
	// NoSign means that workers sign nothing: each item comes with its attestation, or finds it in the channel. It needs a
	// Policy.
	NoSign bool `json:"noSign,omitempty"`
	// Cuts are the stages before which an item crosses to another worker as a message; empty means one segment.
	Cuts []string `json:"cuts,omitempty"`
	// Sources is what is asked of the packages' sources.
	Sources SourcePolicy `json:"sources,omitzero"`
	// SkipExisting has packages looked for on such a server before they are signed.
	SkipExisting bool `json:"skipExisting,omitempty"`
	// StoreGitHub has each bundle put into the attestation store of the GitHub repository that its certificate names.
	StoreGitHub bool `json:"storeGitHub,omitempty"`
	// Inputs is a digest over what was submitted, for finding an interrupted run of the same command.
	Inputs string `json:"inputs,omitempty"`
	// Changed is when the state was last changed, and Reason what the operator who did it said.
	Changed time.Time `json:"changed,omitzero"`
	Reason  string    `json:"reason,omitempty"`
	// Frozen is how many items the campaign had when it was closed; 0 before. Their jobs are purged then, up to the place
	// FrozenAt in the queue. A campaign that was reopened keeps both and takes no new items.
	Frozen   uint64 `json:"frozen,omitempty"`
	FrozenAt uint64 `json:"frozenAt,omitempty"`
}

// State is a campaign's state.
type State string

const (
	StateOpen     State = "open"     // items may be added and are worked on
	StatePaused   State = "paused"   // items may be added; none is handed out, what is in flight finishes
	StateAborting State = "aborting" // no items may be added; what is in flight finishes, the rest is recorded as aborted
	StateClosed   State = "closed"   // finished; its jobs are purged, its ledger stays
)

// TakesItems reports whether items may be enqueued in a campaign of this state. A state that is not known takes none.
func (s State) TakesItems() bool { return s == StateOpen || s == StatePaused }

var campaignName = regexp.MustCompile(`^[a-z0-9][a-z0-9_-]{0,63}$`)

// Validate refuses a campaign that cannot run, before anything is enqueued.
func (c *Campaign) Validate() error {
	if !campaignName.MatchString(c.Name) {
		return fmt.Errorf("campaign name %q: want 1 to 64 of a-z, 0-9, '-' and '_', starting with a letter or digit", c.Name)
	}
	if c.To == "" {
		return errors.New("campaign has no channel to write to")
	}
	if c.ChannelURL == "" && !c.NoTargetChannel {
		return errors.New("campaign has no channel URL to attest")
	}
	if err := c.Sources.Check(); err != nil {
		return fmt.Errorf("campaign %s: %w", c.Name, err)
	}
	if c.Policy == nil && c.NoSign {
		return errors.New("campaign signs nothing and has no policy: whose attestations would count?")
	}
	if c.Policy != nil {
		return c.Policy.Check()
	}
	return nil
}

// OnServer tells whether the channel is on a server that keeps its own index.
func (c *Campaign) OnServer() bool {
	return strings.HasPrefix(c.To, "https://") || strings.HasPrefix(c.To, "http://")
}

// Channel is what stands for the campaign's channel in item keys and event subjects: the public URL, or, where none is
// attested, the place that is written to.
func (c *Campaign) Channel() string {
	if c.ChannelURL != "" {
		return c.ChannelURL
	}
	return c.To
}

// ChannelName is the channel's short name for event subjects: the URL without its scheme.
func (c *Campaign) ChannelName() string {
	s := c.Channel()
	if u, err := url.Parse(s); err == nil && u.Host != "" {
		s = u.Host + u.Path
	}
	return strings.Trim(s, "/")
}

// Segments cuts the ordered stage names where the campaign says. A segment is named by its first stage.
// A cut that names no stage, or the first one, is an error.
func (c *Campaign) Segments(stages []string) ([][]string, error) {
	var out [][]string
	seen := 0
	start := 0
	for i, name := range stages {
		if slices.Contains(c.Cuts, name) {
			if i == 0 {
				return nil, fmt.Errorf("cut before %q: it is the first stage", name)
			}
			seen++
			out = append(out, stages[start:i])
			start = i
		}
	}
	if seen != len(c.Cuts) {
		return nil, fmt.Errorf("cuts %q: want distinct stages out of %q", c.Cuts, stages)
	}
	return append(out, stages[start:]), nil
}

package sign

import (
	"errors"
	"fmt"
	"slices"
	"time"

	trustroot "github.com/sigstore/protobuf-specs/gen/pb-go/trustroot/v1"
	"github.com/sigstore/sigstore-go/pkg/root"
	sigstore "github.com/sigstore/sigstore-go/pkg/sign"
	"google.golang.org/protobuf/encoding/protojson"
)

// services are the ones that a signing config names for a time.
type services struct {
	fulcio       string
	tsas         []string
	rekors       []string
	rekorVersion uint32
	until        time.Time // when one of them ends; zero if none does
}

// selectServices picks the services to use at a time. A Rekor version other than 0 excludes logs of the other one.
func selectServices(config *root.SigningConfig, rekorVersion uint32, now time.Time) (*services, error) {
	// Read through protobuf: sigstore-go's accessors of the two selectors panic where a config leaves them out.
	data, err := config.MarshalJSON()
	if err != nil {
		return nil, fmt.Errorf("reading the signing config: %w", err)
	}
	var pb trustroot.SigningConfig
	if err := protojson.Unmarshal(data, &pb); err != nil {
		return nil, fmt.Errorf("reading the signing config: %w", err)
	}
	selector := func(c *trustroot.ServiceConfiguration) root.ServiceConfiguration {
		return root.ServiceConfiguration{Selector: c.GetSelector(), Count: c.GetCount()}
	}
	versions := sigstore.RekorAPIVersions
	if rekorVersion != 0 {
		if !slices.Contains(versions, rekorVersion) {
			return nil, fmt.Errorf("unknown Rekor version %d", rekorVersion)
		}
		versions = []uint32{rekorVersion}
	}

	ca, err := root.SelectService(config.FulcioCertificateAuthorityURLs(), sigstore.FulcioAPIVersions, now)
	if err != nil {
		return nil, fmt.Errorf("choosing a certificate authority: %w", err)
	}
	logs, err := root.SelectServices(config.RekorLogURLs(), selector(pb.GetRekorTlogConfig()), versions, now)
	if err != nil {
		return nil, fmt.Errorf("choosing a transparency log: %w", err)
	}
	var tsas []root.Service
	if len(config.TimestampAuthorityURLs()) > 0 {
		tsas, err = root.SelectServices(config.TimestampAuthorityURLs(), selector(pb.GetTsaConfig()),
			sigstore.TimestampAuthorityAPIVersions, now)
		if err != nil {
			return nil, fmt.Errorf("choosing a timestamp authority: %w", err)
		}
	}
	s := &services{fulcio: ca.URL, rekorVersion: logs[0].MajorAPIVersion}
	s.ends(ca)
	for _, l := range logs {
		s.rekors = append(s.rekors, l.URL)
		s.ends(l)
	}
	for _, t := range tsas {
		s.tsas = append(s.tsas, t.URL)
		s.ends(t)
	}
	if s.rekorVersion >= 2 && len(s.tsas) == 0 {
		return nil, errors.New("the signing config has a Rekor v2 log and no timestamp authority: nothing would say when a signature was made")
	}
	return s, nil
}

// ends notes that a service's validity may be the first to end.
func (s *services) ends(v root.Service) {
	if e := v.ValidityPeriodEnd; !e.IsZero() && (s.until.IsZero() || e.Before(s.until)) {
		s.until = e
	}
}

func (s *services) validAt(t time.Time) bool { return s.until.IsZero() || !t.After(s.until) }

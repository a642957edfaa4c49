package queue

import (
	"encoding/json"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/hallmark-attest/hallmark/pipeline"
)

// letter is a message of a stream, as far as reading it goes.
type letter struct {
	jetstream.Msg
	subject string
	data    []byte
}

func (l letter) Subject() string { return l.subject }
func (l letter) Data() []byte    { return l.data }

// FuzzJob: a message in JOBS is an item of its campaign and subject, or is refused with an id to set it aside by.
func FuzzJob(f *testing.F) {
	good, err := json.Marshal(&pipeline.Item{ID: "id1", Campaign: "c", Filename: "a-1-0.conda", Source: "/src"})
	if err != nil {
		f.Fatal(err)
	}
	f.Add("id1", good)
	f.Add("id1.retry.3", good)
	f.Add("id1.retry.0", good)
	f.Add("id1.x", good)
	f.Add("", good)
	f.Add("%2E", []byte(`{"id":".","campaign":"c","filename":"x"}`))
	f.Add("id1", []byte(`{"id":"id1","campaign":"c","filename":"x","bundle":[1],"riders":[null],"package":null}`))
	f.Add("id1", []byte(`null`))
	f.Fuzz(func(t *testing.T, tail string, data []byte) {
		s := &source{segment: "hash", c: campaign("c")}
		it, id, err := s.parse(letter{subject: "job.hash.c." + tail, data: data})
		if err != nil {
			return
		}
		if it.ID != id || id == "" || it.Campaign != "c" || it.Filename == "" || jobSubject("hash", "c", id, it.Retry) != "job.hash.c."+tail {
			t.Fatalf("%q %q: %+v", tail, data, it)
		}
		if _, err := json.Marshal(it); err != nil { // it may be set aside, or cross to another segment
			t.Fatal(err)
		}
	})
}

// FuzzCampaignRecord: a value of the bucket campaigns is a campaign of that name whose settings hold, or is refused.
func FuzzCampaignRecord(f *testing.F) {
	good, err := encodeCampaign(campaign("c"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`null`))
	f.Add([]byte(`{"name":"c"}`))
	f.Add([]byte(`{"name":"c","state":"open","to":"/x","channelURL":"::","cuts":["a","a"]}`))
	f.Add([]byte(`{"name":"c","created":"0000-00-00T00:00:00Z"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := decodeCampaign("c", data)
		if err != nil {
			return
		}
		if c.Name != "c" {
			t.Fatalf("%q is campaign %q", data, c.Name)
		}
		_ = c.ChannelName()
		_, _ = c.Segments([]string{"hash", "sources", "sign", "upload", "publish"})
	})
}

// FuzzQuarantined: an entry is of the item that its subject names, or is kept raw.
func FuzzQuarantined(f *testing.F) {
	f.Add("id1", []byte(`{"item":{"id":"id1","campaign":"c","filename":"x"},"failure":{"cause":"a.b","message":"m"}}`))
	f.Add("id1", []byte(`{"item":{"id":"id2"}}`))
	f.Add("id1", []byte(`{"item":null}`))
	f.Add("%", []byte(`{}`))
	f.Add("id1", []byte(`{"item":{"id":"id1"},"raw":"AA=="}`))
	f.Fuzz(func(t *testing.T, token string, data []byte) {
		e, err := readEntry("c", letter{subject: "quarantine.c." + token, data: data})
		if e.Item == nil {
			t.Fatal("no item")
		}
		if err != nil && (string(e.Raw) != string(data) || e.Item.Filename != "") {
			t.Fatalf("%q: %+v", data, e)
		}
		if id, uerr := Untoken(token); err == nil && (uerr != nil || id != e.Item.ID) {
			t.Fatalf("%q is of item %q", token, e.Item.ID)
		}
	})
}

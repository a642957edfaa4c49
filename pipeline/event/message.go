package event

// Message is one event, ready for the EVENTS stream.
type Message struct {
	// Subject is attest.v1.<event>.<campaign>.<channel>.<subdir>.<name>.<id>, escaped.
	Subject string
	// ID goes out as Nats-Msg-Id: the event's deterministic id (ce-id) with the campaign behind it. The id alone would
	// not do: two campaigns may report one fact, and the stream, which deduplicates by Nats-Msg-Id across subjects, would
	// drop the second one's entry in the ledger.
	ID string
	// Header holds the CloudEvents attributes in NATS binary mode ("ce-id", …), content-type and the trace context.
	// Keys are case-sensitive, as NATS's are.
	Header map[string][]string
	Data   []byte
}

package event

// Message is one event, ready for the EVENTS stream.
type Message struct {
	// Subject is attest.v1.<event>.<campaign>.<channel>.<subdir>.<name>.<id>, escaped.
	Subject string
	// ID is the event's deterministic id; it goes out as Nats-Msg-Id too.
	ID string
	// Header holds the CloudEvents attributes in NATS binary mode ("ce-id", …), content-type and the trace context.
	// Keys are case-sensitive, as NATS's are.
	Header map[string][]string
	Data   []byte
}

// Package event is the contract with subscribers. Outcomes of items flow in and CloudEvents messages for the EVENTS
// stream flow out (Encoder); on the other side messages of the stream flow in and typed events flow out (Decode,
// Subscribe).
//
// An event is a CDEvent (specversion 0.5.1) in a CloudEvents 1.0 envelope in binary mode: the CloudEvents attributes are
// the message's "ce-" headers, the CDEvent is its data. Where CDEvents has a type it is used (artifact.signed,
// artifact.published); what CDEvents has no field for is in customData, because its schemas allow no others.
//
// An event MUST NOT hold a secret, an expiring URL or a path of the machine that sent it.
package event

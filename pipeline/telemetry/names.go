package telemetry

// Scope is the instrumentation scope of Hallmark's own metrics and log records.
const Scope = "github.com/hallmark-attest/hallmark/pipeline"

// Spans. An item's span is "process <first stage>" and is the parent of one span per attempt of a stage, named as the
// stage is; requests to an upstream are "<upstream> <METHOD>".
const (
	SpanProcess = "process"
)

// Attributes. Where OpenTelemetry's semantic conventions have a name (messaging, in development; error; server), it is used.
// An item's id, a package's name or a digest MUST NOT be an attribute of a metric: there are millions.
const (
	AttrCampaign = "hallmark.campaign" // a campaign's name
	AttrPackage  = "hallmark.package"  // a package's file name; spans and logs only
	AttrStage    = "hallmark.stage"    // a stage's name
	AttrOutcome  = "hallmark.outcome"  // of an item: published, skipped, failed, crossed, released; of a stage: see OutcomeDone
	AttrAttempt  = "hallmark.attempt"  // how often the queue has handed the item out
	AttrUpstream = "hallmark.upstream" // the name that an upstream has in the configuration: "fulcio", "rekor"

	AttrErrorType        = "error.type" // a pipeline.Error's cause
	AttrMessagingSystem  = "messaging.system"
	AttrMessagingOpName  = "messaging.operation.name"
	AttrMessagingMessage = "messaging.message.id" // an item's id; spans only

	AttrTraceID = "trace_id" // in log records
	AttrSpanID  = "span_id"
)

// Outcomes of one attempt of a stage, beside the error kinds ("transient", "permanent", "skip", "fatal").
const OutcomeDone = "done"

// Metrics.
const (
	MetricItems         = "hallmark.items"           // counter: items that left a segment, by campaign, stage and outcome
	MetricStageDuration = "hallmark.stage.duration"  // histogram, s: attempts of a stage, by stage and outcome
	MetricRetries       = "hallmark.retries"         // counter: attempts to come after a transient error, by stage and cause
	MetricInFlight      = "hallmark.items.in_flight" // gauge: items between the queue and the ledger
	MetricPaused        = "hallmark.stage.paused"    // gauge: campaigns whose stage is held back by an outage, by stage and cause

	MetricBudgetWaiting = "hallmark.budget.waiting" // gauge: requests that wait for a rate budget, by upstream
)

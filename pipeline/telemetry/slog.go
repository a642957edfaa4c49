package telemetry

import (
	"context"
	"io"
	"log/slog"
	"regexp"
	"strings"

	"go.opentelemetry.io/contrib/bridges/otelslog"
	"go.opentelemetry.io/otel/trace"
)

// Masked stands where a secret was.
const Masked = "[masked]"

// Logger writes records of at least the level to w, as JSON or as text, with the trace_id and span_id of the context that
// was logged with. If Setup turned OTEL logs on, before or after, each record goes there too.
//
// Attributes whose names speak of secrets (token, authorization, password, secret, cookie, credential, private key, …) are masked, in
// groups too, and so are bearer tokens, JSON web tokens and signed queries in texts and errors.
func Logger(w io.Writer, level slog.Level, json bool) *slog.Logger {
	opts := &slog.HandlerOptions{Level: level}
	var h slog.Handler = slog.NewTextHandler(w, opts)
	if json {
		h = slog.NewJSONHandler(w, opts)
	}
	return slog.New(&handler{out: h, bridge: otelslog.NewHandler(Scope), level: level})
}

// handler masks, adds the trace and hands records to both.
type handler struct {
	out    slog.Handler
	bridge slog.Handler // does nothing as long as OTEL logs are off
	level  slog.Level
}

func (h *handler) Enabled(_ context.Context, l slog.Level) bool { return l >= h.level }

func (h *handler) Handle(ctx context.Context, r slog.Record) error {
	clean := slog.NewRecord(r.Time, r.Level, maskText(r.Message), r.PC)
	r.Attrs(func(a slog.Attr) bool {
		clean.AddAttrs(mask(a))
		return true
	})
	if h.bridge.Enabled(ctx, r.Level) {
		_ = h.bridge.Handle(ctx, clean.Clone()) // has the trace from ctx; its failures are OpenTelemetry's to report
	}
	if sc := trace.SpanContextFromContext(ctx); sc.IsValid() {
		clean.AddAttrs(slog.String(AttrTraceID, sc.TraceID().String()), slog.String(AttrSpanID, sc.SpanID().String()))
	}
	return h.out.Handle(ctx, clean)
}

func (h *handler) WithAttrs(as []slog.Attr) slog.Handler {
	clean := make([]slog.Attr, len(as))
	for i, a := range as {
		clean[i] = mask(a)
	}
	return &handler{out: h.out.WithAttrs(clean), bridge: h.bridge.WithAttrs(clean), level: h.level}
}

func (h *handler) WithGroup(name string) slog.Handler {
	return &handler{out: h.out.WithGroup(name), bridge: h.bridge.WithGroup(name), level: h.level}
}

// secretNames are what a secret's name contains, without '-' and '_'.
var secretNames = regexp.MustCompile(`token|authorization|passw|secret|cookie|credential|privatekey|apikey|accesskey|signedurl|jwt`)

// mask returns the attribute without what is secret in it.
func mask(a slog.Attr) slog.Attr {
	v := a.Value.Resolve()
	if secretNames.MatchString(strings.NewReplacer("_", "", "-", "", ".", "").Replace(strings.ToLower(a.Key))) {
		return slog.String(a.Key, Masked)
	}
	switch v.Kind() {
	case slog.KindGroup:
		in := v.Group()
		out := make([]slog.Attr, len(in))
		for i, g := range in {
			out[i] = mask(g)
		}
		return slog.Attr{Key: a.Key, Value: slog.GroupValue(out...)}
	case slog.KindString:
		return slog.String(a.Key, maskText(v.String()))
	case slog.KindAny:
		if err, ok := v.Any().(error); ok && err != nil {
			return slog.String(a.Key, maskText(err.Error()))
		}
	}
	return slog.Attr{Key: a.Key, Value: v}
}

var secretTexts = regexp.MustCompile(`(?i)\bbearer\s+[A-Za-z0-9._~+/=-]+` +
	`|\beyJ[A-Za-z0-9_-]{5,}\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]*)?` +
	`|(x-amz-(signature|credential|security-token)|signature|access_token|id_token|token)=[^\s&"']+` +
	`|://[^/\s@"']+:[^/\s@"']+@`)

// maskText takes what is known to be a secret by its form out of a text.
func maskText(s string) string {
	// Most texts have nothing that could match, and this is cheaper than the pattern.
	if !strings.ContainsAny(s, "=@") && !strings.Contains(s, "eyJ") && !strings.Contains(strings.ToLower(s), "bearer") {
		return s
	}
	return secretTexts.ReplaceAllStringFunc(s, func(m string) string {
		switch {
		case strings.HasPrefix(m, "://"):
			return "://" + Masked + "@"
		case strings.Contains(m, "=") && !strings.HasPrefix(strings.ToLower(m), "bearer") && !strings.HasPrefix(m, "eyJ"):
			return m[:strings.IndexByte(m, '=')+1] + Masked
		}
		return Masked
	})
}

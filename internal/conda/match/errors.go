package match

import "fmt"

// Error says why a text is no version or no dependency. Find it with errors.As.
type Error struct {
	// Text is what could not be read, clipped.
	Text string
	// Reason says why.
	Reason string
}

func (e *Error) Error() string { return fmt.Sprintf("%q: %s", e.Text, e.Reason) }

func bad(text, format string, args ...any) *Error {
	const most = 120
	if len(text) > most {
		text = text[:most] + "…"
	}
	return &Error{Text: text, Reason: fmt.Sprintf(format, args...)}
}

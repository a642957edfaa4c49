package prefix

import (
	"context"
	"crypto/rand"
	"errors"
	"net/http"
	"strings"

	"github.com/hallmark-attest/hallmark/internal/remote"
)

// Probe asks whether the server would take an upload: it sends a form without a part, which has no effect. A server that
// looks at the token and the channel first answers 401, 403 or 404; any other refusal, of the form, is what is hoped for.
//
// Errors match ErrIdentity, ErrForbidden or ErrChannel, or are ctx's; else Transient says yes. It is tried again as Upload is.
func (c *Client) Probe(ctx context.Context) error {
	const doing = "asking the server whether it would take an upload"
	_, err := c.persist(ctx, func(token Token) error {
		boundary := rand.Text() + rand.Text()
		body := "--" + boundary + "--\r\n"
		within, cancel := c.within(ctx, int64(len(body)))
		defer cancel()
		resp, err := c.submit(within, doing, strings.NewReader(body), int64(len(body)), "multipart/form-data; boundary="+boundary, token)
		if err != nil {
			return remote.Unreached(ctx, doing, err)
		}
		return answered(doing, resp, token)
	})
	if answer, ok := errors.AsType[*StatusError](err); ok && (errors.Is(err, ErrRejected) || answer.Status == http.StatusConflict) {
		return nil
	}
	return err
}

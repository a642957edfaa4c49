package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
)

// token prints one identity token of the stack that runs on DIR.
func token(ctx context.Context, args []string, stdout io.Writer) error {
	fs := flag.NewFlagSet("sigstore token [flags] DIR", flag.ContinueOnError)
	audience := fs.String("audience", defaultAudience, "who is to accept the token")
	repository := fs.String("repository", defaultRepository, "`owner/name`")
	workflow := fs.String("workflow", defaultWorkflow, "`file` in .github/workflows")
	ref := fs.String("ref", defaultRef, "git `ref`")
	email := fs.String("email", "", "a person's `address`, instead of a workflow")
	life := fs.Duration("lifetime", defaultLifetime, "until it expires; negative: expired already")
	dirs, command, err := parse(fs, args)
	switch {
	case err != nil:
		return err
	case len(dirs) != 1 || command != nil:
		return fmt.Errorf("%w: one DIR", errUsage)
	}
	dir, err := filepath.Abs(dirs[0])
	if err != nil {
		return err
	}
	h := home(dir)
	q := url.Values{
		"audience": {*audience}, "repository": {*repository}, "workflow": {*workflow}, "ref": {*ref},
		"lifetime": {strconv.Itoa(int(life.Seconds()))},
	}
	if *email != "" {
		q = url.Values{"audience": {*audience}, "kind": {"email"}, "email": {*email}, "lifetime": q["lifetime"]}
	}
	jwt, err := requestIDToken(ctx, h, q)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(stdout, jwt)
	return err
}

func requestIDToken(ctx context.Context, h home, q url.Values) (string, error) {
	var sum summary
	b, err := os.ReadFile(h.ready())
	if errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("no sigstore is ready on %s", h)
	}
	if err == nil {
		err = json.Unmarshal(b, &sum)
	}
	if err != nil {
		return "", fmt.Errorf("reading %s: %w", h.ready(), err)
	}
	bearer, err := os.ReadFile(h.key(requestToken))
	if err != nil {
		return "", fmt.Errorf("reading the request token: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, sum.URLs["token"]+"?"+q.Encode(), nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+string(bearer))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	if err != nil {
		return "", fmt.Errorf("asking for a token: %w", err)
	}
	if res.StatusCode != http.StatusOK {
		return "", fmt.Errorf("asking for a token: %s: %s", res.Status, body)
	}
	var answer struct {
		Value string `json:"value"`
	}
	if err := json.Unmarshal(body, &answer); err != nil || answer.Value == "" {
		return "", fmt.Errorf("asking for a token: %q is no answer", body)
	}
	return answer.Value, nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/hallmark-attest/hallmark/internal/command"
	"github.com/hallmark-attest/hallmark/internal/identity"
)

// whoamiCmd shows what would be signed with. It gets one identity token, as a signer would, and asks nobody else.
type whoamiCmd struct {
	command.IdentityFlags
}

// whoami is what a token says of whoever signs with it.
type whoami struct {
	Schema   string        `json:"schema"`
	Identity string        `json:"identity"`
	Issuer   string        `json:"issuer"`
	Rule     string        `json:"rule"`
	Token    tokenClaims   `json:"token"`
	Job      *jobClaims    `json:"job,omitempty"`
	Source   whoamiSource  `json:"source"`
	Looked   []whoamiPlace `json:"looked"`
	Warnings []string      `json:"warnings,omitempty"`
}

type tokenClaims struct {
	Issuer   string     `json:"issuer"`
	Subject  string     `json:"subject"`
	Audience []string   `json:"audience"`
	Expires  *time.Time `json:"expires,omitempty"`
}

type jobClaims struct {
	Repository string `json:"repository,omitempty"`
	Ref        string `json:"ref,omitempty"`
	SHA        string `json:"sha,omitempty"`
	Workflow   string `json:"workflow,omitempty"`
	RunURL     string `json:"runUrl,omitempty"`
}

type whoamiSource struct {
	Kind string `json:"kind"`
	Name string `json:"name"`
}

type whoamiPlace struct {
	Kind  string `json:"kind"`
	Found bool   `json:"found"`
	Why   string `json:"why"`
}

// Run shows.
func (c *whoamiCmd) Run(ctx context.Context, env *command.Env) error {
	found, err := c.Identity(env)
	if err != nil {
		return err
	}
	token, err := found.Source.Token(ctx)
	if err != nil {
		return err
	}
	w, err := whoamiOf(found, token, c.Audience)
	if err != nil {
		return &command.Error{Code: command.ExitIdentity, Item: found.Source.String(), Err: err,
			Hint: "give a token that the certificate authority can make a certificate from"}
	}
	return env.Result(w, w.text)
}

func whoamiOf(found identity.Survey, token identity.Token, audience string) (*whoami, error) {
	p, err := token.Principal()
	if err != nil {
		return nil, err
	}
	w := &whoami{Schema: "hallmark.whoami/1", Identity: p.Identity, Issuer: p.Issuer, Rule: p.Rule,
		Token:  tokenClaims{Issuer: token.Issuer, Subject: token.Subject, Audience: append([]string{}, token.Audience...)},
		Source: whoamiSource{Kind: found.Kind, Name: found.Source.String()}}
	if token.Expiry.IsZero() {
		w.Warnings = append(w.Warnings, "the token does not say when it expires")
	} else {
		w.Token.Expires = &token.Expiry
	}
	if job := (jobClaims{p.Repository, p.Ref, p.SHA, p.Workflow, p.RunURL}); job != (jobClaims{}) {
		w.Job = &job
	}
	for _, f := range found.Looked {
		w.Looked = append(w.Looked, whoamiPlace(f))
	}
	if !slices.Contains(token.Audience, audience) {
		w.Warnings = append(w.Warnings, fmt.Sprintf("the token's audience is %s; the certificate authority takes %q", quoted(token.Audience), audience))
	}
	if token.Issuer == "" {
		return nil, errors.New("the token names no issuer")
	}
	return w, nil
}

func quoted(all []string) string {
	if len(all) == 0 {
		return "missing"
	}
	return fmt.Sprintf("%q", strings.Join(all, ", "))
}

func (w *whoami) text(out io.Writer) {
	row := func(name, value string) {
		if value != "" {
			fmt.Fprintf(out, "%-12s %s\n", name, printable(value))
		}
	}
	row("identity", w.Identity)
	row("issuer", w.Issuer)
	if w.Token.Issuer != w.Issuer {
		row("signed in at", w.Token.Issuer)
	}
	row("rule", w.Rule)
	row("subject", w.Token.Subject)
	row("audience", strings.Join(w.Token.Audience, ", "))
	if w.Token.Expires != nil {
		row("expires", w.Token.Expires.Format(time.RFC3339))
	}
	if j := w.Job; j != nil {
		row("repository", j.Repository)
		row("ref", j.Ref)
		row("commit", j.SHA)
		row("workflow", j.Workflow)
		row("run", j.RunURL)
	}
	row("source", w.Source.Name)
	for _, l := range w.Looked {
		if !l.Found {
			row("not "+l.Kind, l.Why)
		} else {
			row("found", l.Kind+": "+l.Why)
		}
	}
	for _, s := range w.Warnings {
		row("warning", s)
	}
}

// printable keeps a token's claims, which are anybody's words, from acting on the terminal.
func printable(s string) string {
	q := fmt.Sprintf("%+q", s)
	if q = q[1 : len(q)-1]; q == s {
		return s
	}
	return fmt.Sprintf("%q", s)
}

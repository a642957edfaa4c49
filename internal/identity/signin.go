package identity

import (
	"bufio"
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"time"
	"unicode"

	"github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"
)

// errNoBrowser says that no browser can be opened here.
var errNoBrowser = errors.New("no browser")

// typedRedirect asks the provider to show the code instead of sending it.
const typedRedirect = "urn:ietf:wg:oauth:2.0:oob"

const maxTyped = 4 << 10

// byBrowser opens the provider's page, which sends the browser back to us with a code.
func (s *signIn) byBrowser(ctx context.Context) (string, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("listening for the browser: %w", err)
	}
	state, nonce, verifier := rand.Text(), rand.Text(), oauth2.GenerateVerifier()
	// Providers know "localhost" as the place of a program (RFC 8252, 7.3, and what they made of it).
	s.config.RedirectURL = fmt.Sprintf("http://localhost:%d/auth/callback", l.Addr().(*net.TCPAddr).Port)
	type answer struct {
		code string
		err  error
	}
	answers := make(chan answer, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("GET /auth/callback", func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		if q.Get("state") != state { // somebody else's; the sign-in goes on
			http.Error(w, "This is not the sign-in that is going on.", http.StatusBadRequest)
			return
		}
		a := answer{code: q.Get("code")}
		page := "You are signed in."
		if a.code == "" {
			a.err = &refusedError{legible(cmp.Or(q.Get("error"), "without a code")), legible(q.Get("error_description"))}
			page = "You are not signed in."
		}
		select {
		case answers <- a:
		default:
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprintf(w, "<!doctype html><title>Hallmark</title><p>%s You may close this page and go back to the terminal.", page)
	})
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 64 << 10}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	defer func() {
		// The page is let through to the browser, which may keep other connections open for ever.
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Second)
		defer cancel()
		_ = srv.Shutdown(end)
		_ = srv.Close()
		<-served
	}()

	page := s.config.AuthCodeURL(state, oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier))
	if err := s.opener(page); err != nil {
		return "", err
	}
	fmt.Fprintf(s.out, "Sign in with the browser, to sign packages as yourself. If it does not open, go to:\n\n  %s\n\n", page)
	select {
	case a := <-answers:
		if a.err != nil {
			return "", a.err
		}
		return s.exchange(ctx, a.code, verifier, nonce)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// byDevice shows a code that the person enters on any device (RFC 8628).
func (s *signIn) byDevice(ctx context.Context) (string, error) {
	octx := oidc.ClientContext(ctx, s.client)
	verifier := oauth2.GenerateVerifier()
	d, err := s.config.DeviceAuth(octx, oauth2.S256ChallengeOption(verifier))
	if err != nil {
		return "", plain(err)
	}
	if d.DeviceCode == "" || d.UserCode == "" || d.VerificationURI == "" || d.Interval < 0 || d.Interval > 60 {
		return "", errors.New("its answer holds no code to sign in with")
	}
	fmt.Fprintf(s.out, "To sign packages as yourself, go to\n\n  %s\n\non any device and enter the code %s\n", legible(d.VerificationURI), legible(d.UserCode))
	if d.VerificationURIComplete != "" {
		fmt.Fprintf(s.out, "or go to %s\n", legible(d.VerificationURIComplete))
	}
	answer, err := s.config.DeviceAccessToken(octx, d, oauth2.VerifierOption(verifier))
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return "", errors.New("the code was not entered while it was good")
		}
		return "", plain(err)
	}
	return s.accept(ctx, answer, "")
}

// byTyping shows a link and has the person type the code that the provider shows there. The reading cannot be ended: if
// ctx ends first, it keeps the turn.
func (s *signIn) byTyping(ctx context.Context) (string, error) {
	nonce, verifier := rand.Text(), oauth2.GenerateVerifier()
	s.config.RedirectURL = typedRedirect
	fmt.Fprintf(s.out, "To sign packages as yourself, go to\n\n  %s\n\nand enter the verification code from there: ",
		s.config.AuthCodeURL(rand.Text(), oidc.Nonce(nonce), oauth2.S256ChallengeOption(verifier)))
	typed, left := make(chan string), make(chan struct{})
	go func() {
		// Byte by byte, so that nothing is taken which belongs to the next one who reads.
		line, _ := bufio.NewReaderSize(&lineReader{in: s.in, left: maxTyped}, 16).ReadString('\n')
		select {
		case typed <- strings.TrimSpace(line):
		case <-left:
			s.release()
		}
	}()
	select {
	case code := <-typed:
		if code == "" {
			return "", errors.New("no code was entered")
		}
		return s.exchange(ctx, code, verifier, nonce)
	case <-ctx.Done():
		s.reading = true
		close(left)
		return "", ctx.Err()
	}
}

// lineReader reads one byte at a time, and no more than so many.
type lineReader struct {
	in interface {
		Read([]byte) (int, error)
	}
	left int
}

func (r *lineReader) Read(p []byte) (int, error) {
	if r.left <= 0 || len(p) == 0 {
		return 0, errors.New("too long")
	}
	r.left--
	return r.in.Read(p[:1])
}

// exchange turns a code into tokens.
func (s *signIn) exchange(ctx context.Context, code, verifier, nonce string) (string, error) {
	answer, err := s.config.Exchange(oidc.ClientContext(ctx, s.client), code, oauth2.VerifierOption(verifier))
	if err != nil {
		return "", plain(err)
	}
	return s.accept(ctx, answer, nonce)
}

// openBrowser opens a page in the browser of whoever sits at this machine, or gives errNoBrowser: over a remote shell, or
// without a display, nobody does.
func openBrowser(page string) error {
	var program string
	var args []string
	switch runtime.GOOS {
	case "darwin":
		program = "open"
	case "windows":
		program, args = "rundll32", []string{"url.dll,FileProtocolHandler"}
	default:
		if cmp.Or(os.Getenv("DISPLAY"), os.Getenv("WAYLAND_DISPLAY"), os.Getenv("WSL_DISTRO_NAME")) == "" {
			return errNoBrowser
		}
		program = "xdg-open"
	}
	if (runtime.GOOS == "darwin" || runtime.GOOS == "windows") && os.Getenv("SSH_CONNECTION") != "" {
		return errNoBrowser
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return errNoBrowser
	}
	// Some of these stay until the browser is closed: they are not waited for. Their output goes nowhere.
	cmd := exec.Command(path, append(args, page)...)
	if err := cmd.Start(); err != nil {
		return errNoBrowser
	}
	_ = cmd.Process.Release()
	return nil
}

// legible drops from a provider's text what could act on the terminal, and most of what is long.
func legible(text string) string {
	text = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return -1
		}
		return r
	}, strings.ToValidUTF8(text, ""))
	if len(text) > 1000 {
		text = strings.ToValidUTF8(text[:1000], "") + "…"
	}
	return text
}

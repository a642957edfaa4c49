package main

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync"
	"time"
)

// emailIssuerPath makes the second issuer: Fulcio gives an issuer one type, and persons are of another than workflows.
const emailIssuerPath = "/email"

// issuer is an OpenID Connect issuer: one for GitHub Actions workflows at its base URL, and one for persons below
// emailIssuerPath. Both sign with one key.
type issuer struct {
	url    string // no trailing slash
	key    *rsa.PrivateKey
	keyID  string
	bearer string // what a request to GET /token must carry
	run    string // run_id of the workflow's claims: one run per start

	mu    sync.Mutex
	codes map[string]grant // authorization codes that wait to be exchanged
}

func newIssuer(h home, st state, bearer string) (*issuer, error) {
	s, err := h.signer(oidcKey)
	if err != nil {
		return nil, err
	}
	key, ok := s.(*rsa.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("%s: a %T instead of an RSA key", h.key(oidcKey), s)
	}
	id, err := spkiHash(key.Public())
	if err != nil {
		return nil, err
	}
	return &issuer{
		url: baseURL(st.Ports.OIDC), key: key, keyID: base64.RawURLEncoding.EncodeToString(id[:8]),
		bearer: bearer, run: fmt.Sprint(time.Now().Unix()), codes: map[string]grant{},
	}, nil
}

func (o *issuer) handler() http.Handler {
	mux := http.NewServeMux()
	for _, path := range []string{"", emailIssuerPath} {
		mux.HandleFunc("GET "+path+"/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
			o.discovery(w, o.url+path)
		})
	}
	mux.HandleFunc("GET /keys", o.keys)
	mux.HandleFunc("GET /token", o.actionsToken)
	mux.HandleFunc("GET "+emailIssuerPath+"/auth", o.authorize)
	mux.HandleFunc("POST "+emailIssuerPath+"/token", o.exchange)
	return mux
}

func (o *issuer) discovery(w http.ResponseWriter, issuer string) {
	answer(w, map[string]any{
		"issuer":                                issuer,
		"jwks_uri":                              o.url + "/keys",
		"authorization_endpoint":                o.url + emailIssuerPath + "/auth",
		"token_endpoint":                        o.url + emailIssuerPath + "/token",
		"response_types_supported":              []string{"code"},
		"subject_types_supported":               []string{"public"},
		"grant_types_supported":                 []string{"authorization_code"},
		"id_token_signing_alg_values_supported": []string{"RS256"},
		"code_challenge_methods_supported":      []string{"S256"},
		"scopes_supported":                      []string{"openid", "email"},
		"claims_supported":                      []string{"iss", "aud", "sub", "iat", "nbf", "exp"},
	})
}

func (o *issuer) keys(w http.ResponseWriter, _ *http.Request) {
	b64 := base64.RawURLEncoding.EncodeToString
	answer(w, map[string]any{"keys": []map[string]string{{
		"kty": "RSA", "use": "sig", "alg": "RS256", "kid": o.keyID,
		"n": b64(o.key.N.Bytes()), "e": b64(big.NewInt(int64(o.key.E)).Bytes()),
	}}})
}

// actionsToken answers as GitHub's ACTIONS_ID_TOKEN_REQUEST_URL does.
func (o *issuer) actionsToken(w http.ResponseWriter, r *http.Request) {
	// The scheme's case does not count (RFC 9110, 11.1), and cosign writes "bearer".
	scheme, got, _ := strings.Cut(r.Header.Get("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") || subtle.ConstantTimeCompare([]byte(got), []byte(o.bearer)) != 1 {
		http.Error(w, "the request token (ACTIONS_ID_TOKEN_REQUEST_TOKEN) is missing or wrong", http.StatusUnauthorized)
		return
	}
	ask, err := askOf(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	jwt, err := o.issue(ask, "")
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	answer(w, map[string]any{"count": 1, "value": jwt})
}

// issue signs a token for what is asked; nonce may be empty.
func (o *issuer) issue(a ask, nonce string) (string, error) {
	iss, claims := o.url, a.workflowClaims(o.run)
	if a.email != "" {
		iss, claims = o.url+emailIssuerPath, a.personClaims()
	}
	now := time.Now()
	claims["iss"], claims["aud"] = iss, a.audience
	claims["iat"], claims["nbf"] = now.Unix(), now.Add(-time.Second).Unix()
	claims["exp"] = now.Add(a.lifetime).Unix()
	claims["jti"] = rand.Text()
	if nonce != "" {
		claims["nonce"] = nonce
	}
	head, err := json.Marshal(map[string]string{"alg": "RS256", "typ": "JWT", "kid": o.keyID})
	if err != nil {
		return "", err
	}
	body, err := json.Marshal(claims)
	if err != nil {
		return "", err
	}
	b64 := base64.RawURLEncoding.EncodeToString
	input := b64(head) + "." + b64(body)
	sum := sha256.Sum256([]byte(input))
	sig, err := rsa.SignPKCS1v15(rand.Reader, o.key, crypto.SHA256, sum[:])
	if err != nil {
		return "", fmt.Errorf("signing a token: %w", err)
	}
	return input + "." + b64(sig), nil
}

func answer(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	_ = json.NewEncoder(w).Encode(v) // a client that went away is no fault of ours
}

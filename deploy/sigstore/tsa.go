package main

import (
	"fmt"
	"io"
	"net/http"
	"time"

	tsalog "github.com/sigstore/timestamp-authority/v2/pkg/log"
	tsaserver "github.com/sigstore/timestamp-authority/v2/pkg/server"
	"github.com/spf13/viper"
)

const tsaPath = "/api/v1/timestamp"

// newTSA is Sigstore's timestamp authority, without its metrics listener. It can exist once per process: its settings
// are global in viper, and so is the signer that it makes from them.
func newTSA(h home, logs io.Writer) (handler http.Handler, err error) {
	tsalog.Logger = logger(logs)
	for k, v := range map[string]any{
		"timestamp-signer":          "file",
		"timestamp-signer-hash":     "sha256",
		"file-signer-key-path":      h.key(tsaKey),
		"certificate-chain-path":    h.key(tsaChain),
		"enforce-intermediate-eku":  true,
		"include-chain-in-response": false,
		"use-http-201":              false,
		"max-request-body-size":     1 << 20,
		"default-policy-oid":        "1.3.6.1.4.1.57264.2",
		"accepted-policy-oids":      []string{"1.3.6.1.4.1.57264.2"},
		"allow-custom-extensions":   false,
	} {
		viper.Set(k, v)
	}
	defer func() { // it panics where others return an error
		if r := recover(); r != nil {
			err = fmt.Errorf("configuring the timestamp authority: %v", r)
		}
	}()
	return tsaserver.NewRestAPIServer("127.0.0.1", 0, []string{"http"}, false, 30*time.Second, 30*time.Second).GetHandler(), nil
}

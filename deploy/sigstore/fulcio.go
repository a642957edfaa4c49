package main

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	ctclient "github.com/google/certificate-transparency-go/client"
	"github.com/google/certificate-transparency-go/jsonclient"
	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	certauth "github.com/sigstore/fulcio/pkg/ca"
	"github.com/sigstore/fulcio/pkg/ca/baseca"
	"github.com/sigstore/fulcio/pkg/certificate"
	"github.com/sigstore/fulcio/pkg/config"
	gw "github.com/sigstore/fulcio/pkg/generated/protobuf"
	"github.com/sigstore/fulcio/pkg/identity"
	fulciolog "github.com/sigstore/fulcio/pkg/log"
	"github.com/sigstore/fulcio/pkg/server"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	"github.com/sigstore/sigstore/pkg/signature"
	"google.golang.org/grpc/metadata"
)

// stockLifetime is how long Fulcio's certificates are valid: fixed in Fulcio.
const stockLifetime = 10 * time.Minute

// maxRequest is the most that a server reads of one request, in bytes.
const maxRequest = 4 << 20

// newFulcio is Fulcio's server over HTTP, without its gRPC and metrics listeners. The issuers MUST answer already: Fulcio reads
// their discovery documents here.
func newFulcio(ctx context.Context, h home, st state, certificateLifetime time.Duration, logs io.Writer) (http.Handler, error) {
	fulciolog.Logger = logger(logs)
	key, err := h.signer(fulcioKey)
	if err != nil {
		return nil, err
	}
	chain, err := h.chain(fulcioChain)
	if err != nil {
		return nil, err
	}
	if err := certauth.VerifyCertChain(chain, key); err != nil {
		return nil, fmt.Errorf("certificates of Fulcio: %w", err)
	}
	var authority authority = &baseca.BaseCA{SignerWithChain: &certauth.SignerCerts{Signer: key, Certs: chain}}
	if certificateLifetime != stockLifetime {
		authority = shortAuthority{authority, certificateLifetime}
	}

	cfg, err := fulcioConfig(st)
	if err != nil {
		return nil, err
	}
	registry, err := signature.NewAlgorithmRegistryConfig([]protocommon.PublicKeyDetails{ // Fulcio's own defaults
		protocommon.PublicKeyDetails_PKIX_ECDSA_P256_SHA_256, protocommon.PublicKeyDetails_PKIX_ECDSA_P384_SHA_384,
		protocommon.PublicKeyDetails_PKIX_ECDSA_P521_SHA_512, protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_2048_SHA256,
		protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_3072_SHA256, protocommon.PublicKeyDetails_PKIX_RSA_PKCS1V15_4096_SHA256,
		protocommon.PublicKeyDetails_PKIX_ED25519,
	})
	if err != nil {
		return nil, err
	}
	ctlog, err := ctClient(h, st)
	if err != nil {
		return nil, err
	}

	mux := runtime.NewServeMux(runtime.WithMetadata(func(_ context.Context, r *http.Request) metadata.MD {
		token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
		return metadata.Pairs(server.MetadataOIDCTokenKey, token)
	}))
	ca := server.NewGRPCCAServer(ctlog, authority, registry, server.NewIssuerPool(cfg))
	if err := gw.RegisterCAHandlerServer(ctx, mux, ca); err != nil {
		return nil, err
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.Body = http.MaxBytesReader(w, r.Body, maxRequest)
		mux.ServeHTTP(w, r.WithContext(config.With(r.Context(), cfg)))
	}), nil
}

// ctClient is Fulcio's client of the CT log. It checks every SCT with the log's key.
func ctClient(h home, st state) (*ctclient.LogClient, error) {
	key, err := h.signer(ctlogKey)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, err
	}
	// One connection per request that waits at the log: the default keeps two, and opens a new one for each of the others.
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.MaxIdleConnsPerHost = 256
	return ctclient.New(baseURL(st.Ports.CTLog)+ctlogPath, &http.Client{Timeout: 30 * time.Second, Transport: transport}, jsonclient.Options{
		PublicKey: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})),
	})
}

// fulcioConfig has two issuers: workflows, with the claim templates of the public-good instance's GitHub entry
// (https://github.com/sigstore/fulcio/blob/main/config/identity/config.yaml), and persons.
func fulcioConfig(st state) (*config.FulcioConfig, error) {
	workflows := baseURL(st.Ports.OIDC)
	persons := workflows + emailIssuerPath
	const provider = "github-workflow"
	b, err := json.Marshal(config.FulcioConfig{
		OIDCIssuers: map[string]config.OIDCIssuer{
			workflows: {IssuerURL: workflows, ClientID: defaultAudience, Type: config.IssuerTypeCIProvider, CIProvider: provider},
			persons:   {IssuerURL: persons, ClientID: defaultAudience, Type: config.IssuerTypeEmail},
		},
		CIIssuerMetadata: map[string]config.IssuerMetadata{provider: {
			DefaultTemplateValues:          map[string]string{"url": "https://github.com", "environment": ""},
			SubjectAlternativeNameTemplate: "{{ .url }}/{{ .job_workflow_ref }}",
			ExtensionTemplates: certificate.Extensions{
				GithubWorkflowTrigger:               "event_name",
				GithubWorkflowSHA:                   "sha",
				GithubWorkflowName:                  "workflow",
				GithubWorkflowRepository:            "repository",
				GithubWorkflowRef:                   "ref",
				BuildSignerURI:                      "{{ .url }}/{{ .job_workflow_ref }}",
				BuildSignerDigest:                   "job_workflow_sha",
				RunnerEnvironment:                   "runner_environment",
				SourceRepositoryURI:                 "{{ .url }}/{{ .repository }}",
				SourceRepositoryDigest:              "sha",
				SourceRepositoryRef:                 "ref",
				SourceRepositoryIdentifier:          "repository_id",
				SourceRepositoryOwnerURI:            "{{ .url }}/{{ .repository_owner }}",
				SourceRepositoryOwnerIdentifier:     "repository_owner_id",
				BuildConfigURI:                      "{{ .url }}/{{ .workflow_ref }}",
				BuildConfigDigest:                   "workflow_sha",
				BuildTrigger:                        "event_name",
				RunInvocationURI:                    "{{ .url }}/{{ .repository }}/actions/runs/{{ .run_id }}/attempts/{{ .run_attempt }}",
				SourceRepositoryVisibilityAtSigning: "repository_visibility",
				DeploymentEnvironment:               "environment",
			},
		}},
	})
	if err != nil {
		return nil, err
	}
	cfg, err := config.Read(b) // which also fetches the issuers' discovery documents
	if err != nil {
		return nil, fmt.Errorf("configuring Fulcio: %w", err)
	}
	return cfg, nil
}

// authority is what Fulcio asks of a CA that embeds SCTs in its certificates.
type authority interface {
	certauth.CertificateAuthority
	certauth.EmbeddedSCTCA
}

// shortAuthority issues certificates with another life. Fulcio sets ten minutes and then lets the identity write
// into the certificate before it is signed: that is where the end is moved.
type shortAuthority struct {
	authority
	life time.Duration
}

func (a shortAuthority) CreatePrecertificate(ctx context.Context, p identity.Principal, key crypto.PublicKey) (*certauth.CodeSigningPreCertificate, error) {
	return a.authority.CreatePrecertificate(ctx, shortPrincipal{p, a.life}, key)
}

func (a shortAuthority) CreateCertificate(context.Context, identity.Principal, crypto.PublicKey) (*certauth.CodeSigningCertificate, error) {
	return nil, errors.New("certificates without SCT are not issued here") // Fulcio asks for them only when it has no CT log
}

type shortPrincipal struct {
	identity.Principal
	life time.Duration
}

func (p shortPrincipal) Embed(ctx context.Context, cert *x509.Certificate) error {
	cert.NotAfter = cert.NotBefore.Add(p.life)
	return p.Principal.Embed(ctx, cert)
}

package main

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log"
	"net/http"
	"os"
	"path/filepath"
)

// identity reads the files that Trellis gives a service, anew each time.
func identity() (pair tls.Certificate, roots *x509.CertPool, err error) {
	dir := os.Getenv("TRELLIS_IDENTITY")
	if pair, err = tls.LoadX509KeyPair(filepath.Join(dir, "svid.pem"), filepath.Join(dir, "svid_key.pem")); err != nil {
		return pair, nil, err
	}
	bundle, err := os.ReadFile(filepath.Join(dir, "svid_bundle.pem"))
	roots = x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle)
	return pair, roots, err
}

// serveMutual says to everybody who shows a certificate of the project whose it is.
func serveMutual(port string) {
	server := &http.Server{
		Addr: ":" + port,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, r.TLS.PeerCertificates[0].URIs[0], " ", r.TLS.PeerCertificates[0].SerialNumber)
		}),
		TLSConfig: &tls.Config{GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) {
			pair, roots, err := identity()
			return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: roots, ClientAuth: tls.RequireAndVerifyClientCert}, err
		}},
	}
	log.Fatal(server.ListenAndServeTLS("", ""))
}

// ownIdentity shows the service's certificate to servers that speak TLS.
func ownIdentity() http.RoundTripper {
	pair, roots, err := identity()
	if err != nil {
		return http.DefaultTransport
	}
	return &http.Transport{DisableKeepAlives: true, TLSClientConfig: &tls.Config{Certificates: []tls.Certificate{pair}, RootCAs: roots}}
}

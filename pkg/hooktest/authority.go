package hooktest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Authority issues client certificates, for endpoints that ask for them.
type Authority struct {
	tb          TB
	key         *ecdsa.PrivateKey
	certificate *x509.Certificate
	serial      int64
}

// NewAuthority makes an authority with a key of its own.
func NewAuthority(tb TB) *Authority {
	tb.Helper()
	a := &Authority{tb: tb}
	a.certificate, a.key = a.issue("test authority", nil)
	return a
}

// Pool is what a Receiver's Clients want.
func (a *Authority) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(a.certificate)
	return pool
}

// Client issues a client certificate for a common name, both parts as PEM.
func (a *Authority) Client(name string) (certificate, privateKey string) {
	a.tb.Helper()
	issued, key := a.issue(name, a.certificate)
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.tb.Fatalf("write the key of %s: %v", name, err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: issued.Raw})),
		string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// issue makes a certificate, which is its own authority where by is nil.
func (a *Authority) issue(name string, by *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	fail := func(err error) (*x509.Certificate, *ecdsa.PrivateKey) {
		a.tb.Fatalf("issue a certificate for %s: %v", name, err)
		panic(fmt.Sprintf("Fatalf returned: %v", err))
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fail(err)
	}
	a.serial++
	now := time.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name}, NotBefore: now.Add(-time.Hour), NotAfter: now.Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}, BasicConstraintsValid: true,
	}
	signer := a.key
	if by == nil {
		template.IsCA, template.KeyUsage, by, signer = true, x509.KeyUsageCertSign, template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, by, key.Public(), signer)
	if err != nil {
		return fail(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		return fail(err)
	}
	return certificate, key
}

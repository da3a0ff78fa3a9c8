package egress

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"syscall"
)

// Class is the kind of failure of an outbound request, from a closed set, fit for a metric label.
type Class string

// The classes, in the order in which a request can meet them.
const (
	ClassInvalid  Class = "invalid"  // the URL or a header cannot be sent at all, or plain http is not allowed
	ClassDNS      Class = "dns"      // the name does not resolve
	ClassBlocked  Class = "blocked"  // the name resolves to an address that is not allowed
	ClassProxy    Class = "proxy"    // the egress proxy cannot be reached, or refuses the tunnel
	ClassRefused  Class = "refused"  // nothing listens
	ClassConnect  Class = "connect"  // any other failure to connect: unreachable network or host
	ClassTLS      Class = "tls"      // handshake or certificate
	ClassTimeout  Class = "timeout"  // the deadline passed, while connecting or later
	ClassReset    Class = "reset"    // the connection ended before the answer did
	ClassProtocol Class = "protocol" // the answer is not HTTP, or its headers are too large
	ClassCanceled Class = "canceled" // the caller gave up
)

// Error is what every failed request of a Client returns.
type Error struct {
	Class Class
	Op    string // what was being done: "resolve", "connect", "proxy", "request", "read"
	Err   error
}

// Error names the operation and the cause. It never holds the URL, whose path or query may be a secret.
func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// ClassOf returns the class of an error that a Client returned, and "" for nil.
func ClassOf(err error) Class {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Class
	}
	return classify(err)
}

// classify decides by type. What it doesn't know is a protocol error: net/http reports malformed answers as plain texts.
func classify(err error) Class {
	var (
		inner   *Error
		blocked *BlockedError
		dns     *net.DNSError
		netErr  net.Error
		record  tls.RecordHeaderError
		alert   tls.AlertError
		verify  *tls.CertificateVerificationError
		host    x509.HostnameError
		unknown x509.UnknownAuthorityError
		invalid x509.CertificateInvalidError
		op      *net.OpError
	)
	switch {
	case errors.As(err, &inner):
		return inner.Class
	case errors.As(err, &blocked):
		return ClassBlocked
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded):
		return ClassTimeout
	case errors.Is(err, context.Canceled):
		return ClassCanceled
	case errors.As(err, &dns):
		if dns.IsTimeout {
			return ClassTimeout
		}
		return ClassDNS
	case errors.Is(err, syscall.ECONNREFUSED):
		return ClassRefused
	case errors.Is(err, http.ErrSchemeMismatch), errors.As(err, &record), errors.As(err, &alert), errors.As(err, &verify),
		errors.As(err, &host), errors.As(err, &unknown), errors.As(err, &invalid):
		return ClassTLS
	case errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return ClassReset
	case errors.As(err, &netErr) && netErr.Timeout():
		return ClassTimeout
	case errors.As(err, &op) && op.Op == "dial":
		return ClassConnect
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		// crypto/tls reports alerts so.
		return ClassTLS
	}
	return ClassProtocol
}

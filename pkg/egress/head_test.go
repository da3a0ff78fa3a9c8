package egress

import (
	"bufio"
	"bytes"
	"io"
	"net/http"
	"reflect"
	"strings"
	"testing"
)

func FuzzSimpleHead(f *testing.F) {
	for _, seed := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
		"HTTP/1.1 200 \r\ncontent-length: 2\r\nX-A: 1\r\nx-a: 2\r\n\r\nok",
		"HTTP/1.1 204 No Content\r\nDate: now\r\n\r\n",
		"HTTP/1.1 204\r\n\r\n",
		"HTTP/1.1 304 Not Modified\r\nContent-Length: 9\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
		"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n X: folded\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX : y\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\nContent-Length: 0\n\n",
		"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 2000 OK\r\nContent-Length: 0\r\n\r\n",
		"HTTP/1.1 200 OK\r\n\r\n",
	} {
		f.Add([]byte(seed))
	}
	// What the short way takes, net/http reads the same.
	f.Fuzz(func(t *testing.T, b []byte) {
		size, status, header, length := simpleHead(b)
		if size == 0 {
			return
		}
		resp, err := http.ReadResponse(bufio.NewReader(bytes.NewReader(b)), &http.Request{Method: http.MethodPost})
		if err != nil {
			t.Fatalf("net/http refuses it: %v", err)
		}
		defer func() { _ = resp.Body.Close() }()
		if resp.StatusCode != status || resp.Close || int(max(resp.ContentLength, 0)) != length {
			t.Fatalf("net/http: %d, length %d, close %v; here %d, length %d", resp.StatusCode, resp.ContentLength, resp.Close, status, length)
		}
		if len(header) != len(resp.Header) || len(header) > 0 && !reflect.DeepEqual(header, resp.Header) {
			t.Fatalf("net/http: %q, here %q", resp.Header, header)
		}
		body, err := io.ReadAll(resp.Body)
		if want := b[size:min(size+length, len(b))]; err == nil && !bytes.Equal(body, want) {
			t.Fatalf("net/http: %q, here %q", body, want)
		}
	})
}

func TestSimpleHeadLeavesTheUnusualAlone(t *testing.T) {
	for _, unusual := range []string{
		"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 200 OK\r\n\r\n",
		"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n folded\r\n\r\n",
		"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nX: " + strings.Repeat("x", 9000),
	} {
		if size, _, _, _ := simpleHead([]byte(unusual)); size != 0 {
			t.Errorf("%.60q was taken", unusual)
		}
	}
	if size, status, header, length := simpleHead([]byte("HTTP/1.1 202 Accepted\r\nContent-length: 2\r\n\r\nok")); size != 44 || status != 202 || length != 2 || header.Get("Content-Length") != "2" {
		t.Errorf("got %d %d %v %d", size, status, header, length)
	}
}

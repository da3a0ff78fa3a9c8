package egress

import (
	"bytes"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
)

// simpleHead reads the usual head of an answer from what has already arrived: HTTP/1.1, a final status, a Content-Length and
// nothing that changes how the body or the connection is to be read. It returns the head's length, or 0 for anything else,
// which http.ReadResponse then reads from the start. It is a quarter of that one's cost.
func simpleHead(b []byte) (size, status int, header http.Header, length int) {
	const protocol = "HTTP/1.1 "
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 || len(b) < len(protocol)+3 || string(b[:len(protocol)]) != protocol {
		return 0, 0, nil, 0
	}
	// One copy, which all values share.
	head := string(b[len(protocol) : end+2])
	line, rest, _ := strings.Cut(head, "\r\n")
	code, _, _ := strings.Cut(line, " ")
	status, err := strconv.Atoi(code)
	if err != nil || len(code) != 3 || status < 200 || status > 599 || !validValue(line) {
		return 0, 0, nil, 0
	}
	length = -1
	if status == http.StatusNoContent || status == http.StatusNotModified {
		length = 0 // whatever a header says (RFC 9112, section 6.3)
	}
	lines := strings.Count(rest, "\r\n")
	header = make(http.Header, lines)
	slots := make([]string, lines)
	for rest != "" {
		line, rest, _ = strings.Cut(rest, "\r\n")
		name, value, ok := strings.Cut(line, ":")
		value = strings.Trim(value, " \t")
		if !ok || !validToken(name) || !validValue(value) {
			return 0, 0, nil, 0
		}
		name = textproto.CanonicalMIMEHeaderKey(name)
		switch name {
		case "Content-Length":
			n, err := strconv.ParseUint(value, 10, 31)
			if _, twice := header[name]; err != nil || twice {
				return 0, 0, nil, 0
			}
			if length < 0 {
				length = int(n)
			}
		case "Transfer-Encoding", "Connection", "Trailer", "Upgrade":
			return 0, 0, nil, 0
		}
		if old, more := header[name]; more {
			header[name] = append(old, value)
			continue
		}
		slots[0] = value
		header[name], slots = slots[:1:1], slots[1:]
	}
	if length < 0 {
		return 0, 0, nil, 0
	}
	return end + 4, status, header, length
}

// Package egress is the one way out: every connection that callstream opens to an address somebody else chose
// (deliveries, tests, verification, token endpoints, alerts) goes through its Client.
//
// A URL that a customer typed may name, now or after its next DNS answer, an address inside our own network: a metadata
// service, a database, an admin page. The client therefore resolves a name itself, checks every address of the answer,
// and connects to an address that it checked, so that nothing can change between the check and the connection. Through a
// proxy it asks for a tunnel (CONNECT) to the checked address, never to the name, because the proxy would resolve it
// again. TLS still verifies the name.
package egress

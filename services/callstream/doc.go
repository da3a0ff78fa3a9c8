// Package callstream is the command line: the whole pipeline in one process (up), and what a shell needs to work with a
// pipeline that runs: traffic (simulate), a receiver (listen), subscriptions, API keys, topics and a doctor.
//
// Each command has a file. Those that talk to the API do so through apiClient and know nothing of the services.
package callstream

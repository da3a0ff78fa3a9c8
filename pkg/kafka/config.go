package kafka

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/sasl"
	"github.com/twmb/franz-go/pkg/sasl/oauth"
	"github.com/twmb/franz-go/pkg/sasl/plain"
	"github.com/twmb/franz-go/pkg/sasl/scram"
	"github.com/twmb/franz-go/plugin/kzap"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// Config says how to reach a Kafka cluster. Every service embeds it, so that the settings carry the same names
// everywhere.
type Config struct {
	Brokers  []string `config:"KAFKA_BROKERS" doc:"seed brokers, host:port; 'callstream up' starts an embedded broker when there are none"`
	ClientID string   `config:"KAFKA_CLIENT_ID" default:"callstream" doc:"client id that brokers see in their logs and quotas"`

	TLS           bool   `config:"KAFKA_TLS" doc:"talk TLS to the brokers"`
	TLSCA         string `config:"KAFKA_TLS_CA" doc:"file with the CA certificates to trust (PEM); empty for the system's"`
	TLSCert       string `config:"KAFKA_TLS_CERT" doc:"file with the client certificate (PEM)"`
	TLSKey        string `config:"KAFKA_TLS_KEY" doc:"file with the client certificate's key (PEM)"`
	TLSServerName string `config:"KAFKA_TLS_SERVER_NAME" doc:"name to verify in the brokers' certificates, where it isn't their host name"`

	SASLMechanism    string   `config:"KAFKA_SASL_MECHANISM" oneof:",PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER" doc:"how to log in; empty for not at all"`
	SASLUsername     string   `config:"KAFKA_SASL_USERNAME" doc:"user for PLAIN and SCRAM"`
	SASLPassword     string   `config:"KAFKA_SASL_PASSWORD" secret:"true" doc:"password for PLAIN and SCRAM"`
	SASLTokenFile    string   `config:"KAFKA_SASL_TOKEN_FILE" doc:"OAUTHBEARER: file that holds the token; read anew for each connection"`
	SASLTokenURL     string   `config:"KAFKA_SASL_TOKEN_URL" doc:"OAUTHBEARER: token endpoint for the client credentials grant"`
	SASLClientID     string   `config:"KAFKA_SASL_CLIENT_ID" doc:"OAUTHBEARER: client id for the token endpoint"`
	SASLClientSecret string   `config:"KAFKA_SASL_CLIENT_SECRET" secret:"true" doc:"OAUTHBEARER: client secret for the token endpoint"`
	SASLScopes       []string `config:"KAFKA_SASL_SCOPES" doc:"OAUTHBEARER: scopes to ask the token endpoint for"`
}

// Validate reports what the tags of Config can't say. It lets empty Brokers pass: whether an embedded broker stands in
// is for the caller to know.
func (c *Config) Validate() []string {
	var problems []string
	for _, b := range c.Brokers {
		if strings.ContainsAny(b, " \t/;") {
			problems = append(problems, fmt.Sprintf("CALLSTREAM_KAFKA_BROKERS: %q is not host:port; separate brokers by commas, without a scheme", b))
		}
	}
	if !c.TLS && (c.TLSCA != "" || c.TLSCert != "" || c.TLSKey != "" || c.TLSServerName != "") {
		problems = append(problems, "CALLSTREAM_KAFKA_TLS_…: set, but CALLSTREAM_KAFKA_TLS is off: set it to true")
	}
	if (c.TLSCert == "") != (c.TLSKey == "") {
		problems = append(problems, "CALLSTREAM_KAFKA_TLS_CERT and CALLSTREAM_KAFKA_TLS_KEY: set both, or neither")
	}
	switch c.SASLMechanism {
	case "":
		if c.SASLUsername != "" || c.SASLPassword != "" || c.SASLTokenFile != "" || c.SASLTokenURL != "" {
			problems = append(problems, "CALLSTREAM_KAFKA_SASL_MECHANISM: empty, although SASL credentials are set: name the mechanism")
		}
	case "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512":
		if c.SASLUsername == "" || c.SASLPassword == "" {
			problems = append(problems, "CALLSTREAM_KAFKA_SASL_USERNAME and CALLSTREAM_KAFKA_SASL_PASSWORD: "+c.SASLMechanism+" needs both")
		}
	case "OAUTHBEARER":
		if (c.SASLTokenFile == "") == (c.SASLTokenURL == "") {
			problems = append(problems, "CALLSTREAM_KAFKA_SASL_TOKEN_FILE or CALLSTREAM_KAFKA_SASL_TOKEN_URL: OAUTHBEARER needs one of them")
		}
		if c.SASLTokenURL != "" && (c.SASLClientID == "" || c.SASLClientSecret == "") {
			problems = append(problems, "CALLSTREAM_KAFKA_SASL_CLIENT_ID and CALLSTREAM_KAFKA_SASL_CLIENT_SECRET: CALLSTREAM_KAFKA_SASL_TOKEN_URL needs both")
		}
	default:
		problems = append(problems, "CALLSTREAM_KAFKA_SASL_MECHANISM: "+c.SASLMechanism+" is not one of PLAIN, SCRAM-SHA-256, SCRAM-SHA-512, OAUTHBEARER")
	}
	return problems
}

// Errors of Options.
var (
	// ErrNoBrokers means that a client was asked for without a broker to talk to.
	ErrNoBrokers = errors.New("no Kafka brokers are configured: set CALLSTREAM_KAFKA_BROKERS")
	errNoCA      = errors.New("the file holds no PEM certificate")
)

// Options are the client options that hold for every client of ours: where the brokers are, how to log in, and limits
// that keep an outage from costing memory or time without bound. An option given after them to kgo.NewClient replaces
// the one here.
func (c Config) Options(log *zap.Logger) ([]kgo.Opt, error) {
	if len(c.Brokers) == 0 {
		return nil, ErrNoBrokers
	}
	id := c.ClientID
	if id == "" {
		id = "callstream"
	}
	opts := []kgo.Opt{
		kgo.SeedBrokers(c.Brokers...),
		kgo.ClientID(id),
		kgo.SoftwareNameAndVersion("callstream", "1"),
		kgo.DialTimeout(5 * time.Second),
		// A request may wait this long for a broker on top of the time the request itself asks for. Short, so that a
		// broker that is gone is noticed within the ten seconds that an HTTP caller waits.
		kgo.RequestTimeoutOverhead(5 * time.Second),
		kgo.RetryBackoffFn(backoff),
		kgo.MetadataMaxAge(time.Minute),
		kgo.MetadataMinAge(250 * time.Millisecond),
		// Our topics are declared; a client that creates a misspelt one would hide the mistake.
		// (AllowAutoTopicCreation is off by default and stays so.)
		kgo.FetchMinBytes(1), // a record is handed on as it arrives: waiting for more costs latency and buys no throughput
		kgo.FetchMaxWait(time.Second),
		kgo.DisableClientMetrics(),
	}
	if log != nil {
		// The client warns of every try to connect, several a second while a broker is away. Who uses it says so once.
		log = log.Named("kafka")
		if level := log.Level(); level > zapcore.DebugLevel && level < zapcore.ErrorLevel {
			log = log.WithOptions(zap.IncreaseLevel(zapcore.ErrorLevel))
		}
		// Its errors it repeats for as long as they last: once a minute each is enough.
		log = log.WithOptions(zap.WrapCore(newQuiet))
		opts = append(opts, kgo.WithLogger(kzap.New(log)))
	}
	if c.TLS {
		conf, err := c.tlsConfig()
		if err != nil {
			return nil, err
		}
		opts = append(opts, kgo.DialTLSConfig(conf))
	}
	if m := c.mechanism(); m != nil {
		opts = append(opts, kgo.SASL(m))
	}
	return opts, nil
}

// backoff grows from 50 ms to 2 s, so that clients come back quickly after a broker's restart and don't hammer one that
// is gone. The client adds no jitter of its own; ours comes from the clock, which needs no shared state.
func backoff(tries int) time.Duration {
	d := 50 * time.Millisecond << min(max(tries-1, 0), 6)
	d = min(d, 2*time.Second)
	return d - time.Duration(time.Now().UnixNano()%int64(d/4))
}

func (c Config) tlsConfig() (*tls.Config, error) {
	conf := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: c.TLSServerName}
	if c.TLSCA != "" {
		pem, err := os.ReadFile(c.TLSCA)
		if err != nil {
			return nil, fmt.Errorf("read CALLSTREAM_KAFKA_TLS_CA: %w", err)
		}
		conf.RootCAs = x509.NewCertPool()
		if !conf.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("read CALLSTREAM_KAFKA_TLS_CA %s: %w", c.TLSCA, errNoCA)
		}
	}
	if c.TLSCert != "" {
		// Read now so that a mistake shows at the start, and again for each handshake so that a renewed certificate is used.
		if _, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey); err != nil {
			return nil, fmt.Errorf("load CALLSTREAM_KAFKA_TLS_CERT: %w", err)
		}
		cert, key := c.TLSCert, c.TLSKey
		conf.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
			pair, err := tls.LoadX509KeyPair(cert, key)
			if err != nil {
				return nil, fmt.Errorf("load the Kafka client certificate: %w", err)
			}
			return &pair, nil
		}
	}
	return conf, nil
}

func (c Config) mechanism() sasl.Mechanism {
	switch c.SASLMechanism {
	case "PLAIN":
		return plain.Auth{User: c.SASLUsername, Pass: c.SASLPassword}.AsMechanism()
	case "SCRAM-SHA-256":
		return scram.Auth{User: c.SASLUsername, Pass: c.SASLPassword}.AsSha256Mechanism()
	case "SCRAM-SHA-512":
		return scram.Auth{User: c.SASLUsername, Pass: c.SASLPassword}.AsSha512Mechanism()
	case "OAUTHBEARER":
		source := &tokenSource{config: c}
		return oauth.Oauth(func(ctx context.Context) (oauth.Auth, error) {
			token, err := source.token(ctx)
			return oauth.Auth{Token: token}, err
		})
	}
	return nil
}

// Where names the brokers for a message to people.
func (c Config) Where() string { return strings.Join(c.Brokers, ", ") }

module github.com/callstream/callstream/test

go 1.26.0

require (
	github.com/callstream/callstream/pkg v0.0.0
	github.com/callstream/callstream/schemas v0.0.0
	github.com/callstream/callstream/services/callstream v0.0.0
	github.com/callstream/callstream/services/console v0.0.0
	github.com/callstream/callstream/services/dispatcher v0.0.0
	github.com/callstream/callstream/services/filter v0.0.0
	github.com/callstream/callstream/services/producer v0.0.0
	github.com/callstream/callstream/subscription v0.0.0
)

require (
	github.com/compose-spec/compose-go/v2 v2.16.2 // indirect
	github.com/klauspost/compress v1.20.3 // indirect
	github.com/pierrec/lz4/v4 v4.1.33 // indirect
	github.com/standard-webhooks/standard-webhooks/libraries v0.0.1 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
	github.com/twmb/franz-go v1.22.2 // indirect
	github.com/twmb/franz-go/pkg/kadm v1.19.0 // indirect
	github.com/twmb/franz-go/pkg/kmsg v1.15.0 // indirect
	gopkg.in/yaml.v3 v3.0.1 // indirect
)

replace github.com/callstream/callstream/pkg => ../pkg

replace github.com/callstream/callstream/schemas => ../schemas

replace github.com/callstream/callstream/subscription => ../subscription

replace github.com/callstream/callstream/services/producer => ../services/producer

replace github.com/callstream/callstream/services/filter => ../services/filter

replace github.com/callstream/callstream/services/dispatcher => ../services/dispatcher

replace github.com/callstream/callstream/services/console => ../services/console

replace github.com/callstream/callstream/services/callstream => ../services/callstream

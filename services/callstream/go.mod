module github.com/callstream/callstream/services/callstream

go 1.26.0

require (
	github.com/callstream/callstream/pkg v0.0.0
	github.com/callstream/callstream/schemas v0.0.0
	github.com/callstream/callstream/services/console v0.0.0
	github.com/callstream/callstream/services/dispatcher v0.0.0
	github.com/callstream/callstream/services/filter v0.0.0
	github.com/callstream/callstream/services/producer v0.0.0
	github.com/callstream/callstream/subscription v0.0.0
)

require (
	github.com/go-json-experiment/json v0.0.0-20260820222146-c27c302e5fc3 // indirect
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/mitchellh/colorstring v0.0.0-20190213212951-d06e56a500db // indirect
	github.com/rivo/uniseg v0.4.7 // indirect
	github.com/schollz/progressbar/v3 v3.19.1 // indirect
	github.com/spf13/cobra v1.10.2 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	github.com/standard-webhooks/standard-webhooks/libraries v0.0.1 // indirect
	github.com/stretchr/testify v1.12.1 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/term v0.47.0 // indirect
	pgregory.net/rapid v1.3.0 // indirect
)

replace github.com/callstream/callstream/pkg => ../../pkg

replace github.com/callstream/callstream/schemas => ../../schemas

replace github.com/callstream/callstream/subscription => ../../subscription

replace github.com/callstream/callstream/services/producer => ../../services/producer

replace github.com/callstream/callstream/services/filter => ../../services/filter

replace github.com/callstream/callstream/services/dispatcher => ../../services/dispatcher

replace github.com/callstream/callstream/services/console => ../../services/console

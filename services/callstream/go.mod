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

replace github.com/callstream/callstream/pkg => ../../pkg

replace github.com/callstream/callstream/schemas => ../../schemas

replace github.com/callstream/callstream/subscription => ../../subscription

replace github.com/callstream/callstream/services/producer => ../../services/producer

replace github.com/callstream/callstream/services/filter => ../../services/filter

replace github.com/callstream/callstream/services/dispatcher => ../../services/dispatcher

replace github.com/callstream/callstream/services/console => ../../services/console

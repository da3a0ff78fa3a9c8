module github.com/callstream/callstream/services/dispatcher

go 1.26.0

require (
	github.com/callstream/callstream/pkg v0.0.0
	github.com/callstream/callstream/schemas v0.0.0
	github.com/callstream/callstream/subscription v0.0.0
)

replace github.com/callstream/callstream/pkg => ../../pkg

replace github.com/callstream/callstream/schemas => ../../schemas

replace github.com/callstream/callstream/subscription => ../../subscription

package run_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/callstream/callstream/pkg/run"
)

func TestVersionIsNeverEmpty(t *testing.T) { require.NotEmpty(t, run.Version()) }

module github.com/callstream/callstream/pkg

go 1.26.0

module github.com/callstream/callstream/schemas

go 1.26.0

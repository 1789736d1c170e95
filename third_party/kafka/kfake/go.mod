module github.com/twmb/franz-go/pkg/kfake

go 1.26.0

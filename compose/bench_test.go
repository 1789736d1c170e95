package compose

import (
	"context"
	"fmt"
	"strings"
	"testing"
)

// BenchmarkLoad shows how the time to load grows with the number of services.
func BenchmarkLoad(b *testing.B) {
	for _, n := range []int{1, 10, 100, 200, 500} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			var text strings.Builder
			text.WriteString("name: bench\nx-trellis: {gateway: {policy: {auth: none}}}\nservices:\n")
			for i := range n {
				fmt.Fprintf(&text, "  s%d:\n    image: x\n    environment: {A: \"${A:-1}\", B: \"2\"}\n    ports: [{target: 8080, x-trellis: {routes: [{path: /s%d/*}]}}]\n    deploy: {replicas: 5, resources: {limits: {cpus: \"0.5\", memory: 64M}}}\n    x-trellis: {process: {command: [./s]}, probe: {http: /up}}\n", i, i)
				if i > 0 {
					fmt.Fprintf(&text, "    depends_on: [s%d]\n", i-1)
				}
			}
			dir := b.TempDir()
			writeFile(b, dir+"/compose.yaml", text.String())
			for b.Loop() {
				if _, _, err := Load(context.Background(), Options{WorkingDir: dir, Environ: []string{}}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

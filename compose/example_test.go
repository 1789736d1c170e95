package compose_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"

	"trellis/compose"
)

// file writes a Compose file to a directory of its own.
func file(content string) (dir string) {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		log.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "compose.yaml"), []byte(content), 0o600); err != nil {
		log.Fatal(err)
	}
	return dir
}

func ExampleLoad() {
	dir := file(`
name: shop
services:
  web:
    image: nginx
    ports: ["8080:80"]
    depends_on: [db]
  db:
    image: postgres
    scale: 1
`)
	defer os.RemoveAll(dir)
	project, _, err := compose.Load(context.Background(), compose.Options{WorkingDir: dir, Environ: []string{}})
	if err != nil {
		log.Fatal(err)
	}
	web := project.Services["web"]
	_, line, column := project.Position("services.web.ports[0].published")
	fmt.Println(project.Name, project.ServiceNames())
	fmt.Println(web.Ports[0].Published, web.Ports[0].Protocol, web.DependsOn["db"].Condition)
	fmt.Printf("written in line %d, column %d\n", line, column)
	// Output:
	// shop [db web]
	// 8080 tcp service_started
	// written in line 6, column 13
}

// Everything that is wrong is said at once, each with its place.
func ExampleLoad_errors() {
	dir := file(`
services:
  web:
    imgae: nginx
    depends_on: [databse]
    x-trellis: {probe: {htp: /healthz}}
  database: {image: postgres, restart: allways}
`)
	defer os.RemoveAll(dir)
	_, _, err := compose.Load(context.Background(), compose.Options{WorkingDir: dir, Environ: []string{}})
	var all compose.Diagnostics
	if errors.As(err, &all) {
		for _, d := range all {
			fmt.Println(d)
		}
	}
	// Output:
	// compose.yaml:4:5: services.web.imgae: unknown key; did you mean image?
	// compose.yaml:5:18: services.web.depends_on.databse: there is no service "databse"; did you mean database?
	// compose.yaml:6:25: services.web.x-trellis.probe.htp: unknown key; did you mean http?
	// compose.yaml:7:40: services.database.restart: "allways" is not known; did you mean always?
}

func ExampleCheck() {
	dir := file(`
name: shop
services:
  web:
    image: shop/web
    x-trellis: {process: {command: [bin/web], artifacts: [bin/web]}}
    dns: 1.1.1.1
    cpu_shares: 512
`)
	defer os.RemoveAll(dir)
	project, _, err := compose.Load(context.Background(), compose.Options{WorkingDir: dir, Environ: []string{}})
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range compose.Check(project, compose.TargetProcess) {
		fmt.Println(d)
	}
	// Output:
	// compose.yaml:7:5: services.web.dns: has no effect: names are resolved as this machine resolves them
	// compose.yaml:8:17: services.web.cpu_shares: has no effect: all services have the same share; use deploy.resources.limits.cpus
}

func ExampleContents() {
	dir := file(`
services: {web: {image: nginx, secrets: [token]}}
secrets: {token: {environment: TOKEN}}
`)
	defer os.RemoveAll(dir)
	environ := []string{"TOKEN=open sesame"}
	project, _, err := compose.Load(context.Background(), compose.Options{WorkingDir: dir, Environ: environ})
	if err != nil {
		log.Fatal(err)
	}
	contents, err := compose.Contents(project, environ)
	fmt.Println(len(contents), len(contents["secrets/token"]), err)
	// Output: 1 11 <nil>
}

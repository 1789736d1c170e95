// Command catalog serves the courses.
package main

import (
	"os"

	"evergreen/catalog"
	"evergreen/service"
)

func main() { os.Exit(service.Main("catalog", catalog.App)) }

// Command web serves the pages.
package main

import (
	"os"

	"evergreen/service"
	"evergreen/web"
)

func main() { os.Exit(service.Main("web", web.App)) }

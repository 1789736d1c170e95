// Command content serves lessons.
package main

import (
	"os"

	"evergreen/content"
	"evergreen/service"
)

func main() { os.Exit(service.Main("content", content.App)) }

// Command identity serves accounts, sign-in and the keys of tokens.
package main

import (
	"os"

	"evergreen/identity"
	"evergreen/service"
)

func main() { os.Exit(service.Main("identity", identity.App)) }

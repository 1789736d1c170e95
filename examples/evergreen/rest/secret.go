package rest

import (
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
)

// SecretHeader carries the secret by which the services of one platform know each other.
const SecretHeader = "Service-Secret"

// errForeign is what somebody gets who is no service of this platform.
var errForeign = &Problem{Status: http.StatusForbidden, Code: "no_service", Title: "This address is for other services."}

// Services lets only those in who know secret. Without a secret nobody gets in.
func Services(secret string, next http.HandlerFunc) http.HandlerFunc {
	want := sha256.Sum256([]byte(secret))
	return func(w http.ResponseWriter, r *http.Request) {
		got := sha256.Sum256([]byte(r.Header.Get(SecretHeader)))
		if secret == "" || subtle.ConstantTimeCompare(got[:], want[:]) != 1 {
			WriteError(w, errForeign)
			return
		}
		next(w, r)
	}
}

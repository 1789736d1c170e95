package load

import (
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"sync"
)

// Ledger is the receiver's half of a proof that no request was lost or sent twice: it remembers the SeqHeader of every
// request that changes something. Its zero value is ready; it is safe for concurrent use and serves
//
//	POST, PUT, PATCH, DELETE  writes the number down and answers 204, or 400 without a number
//	GET                       answers an Account as JSON
//
// Programs under test that want to answer otherwise call Record from handlers of their own.
type Ledger struct {
	mu   sync.Mutex
	seen map[uint64]int
}

// Account is what a Ledger has seen.
type Account struct {
	Received   int      `json:"received"`   // requests
	Distinct   int      `json:"distinct"`   // numbers
	Duplicates []uint64 `json:"duplicates"` // numbers that came more than once, in order; never nil
}

// Record writes seq down and returns how often it has come by now.
func (l *Ledger) Record(seq uint64) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.seen == nil {
		l.seen = map[uint64]int{}
	}
	l.seen[seq]++
	return l.seen[seq]
}

// Account sums up.
func (l *Ledger) Account() Account {
	l.mu.Lock()
	defer l.mu.Unlock()
	a := Account{Distinct: len(l.seen), Duplicates: []uint64{}}
	for seq, n := range l.seen {
		a.Received += n
		if n > 1 {
			a.Duplicates = append(a.Duplicates, seq)
		}
	}
	slices.Sort(a.Duplicates)
	return a
}

// Missing returns those of seqs that never came: answered to the sender, and unknown to the receiver.
func (l *Ledger) Missing(seqs []uint64) []uint64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	var missing []uint64
	for _, seq := range seqs {
		if l.seen[seq] == 0 {
			missing = append(missing, seq)
		}
	}
	return missing
}

// ServeHTTP is described with Ledger.
func (l *Ledger) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete:
		seq, err := strconv.ParseUint(r.Header.Get(SeqHeader), 10, 64)
		if err != nil {
			http.Error(w, "no number in "+SeqHeader, http.StatusBadRequest)
			return
		}
		l.Record(seq)
		w.WriteHeader(http.StatusNoContent)
	default:
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(l.Account())
	}
}

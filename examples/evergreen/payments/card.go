package payments

import (
	"strconv"
	"strings"
	"time"

	"evergreen/rest"
)

// Card is what a learner pays with. No part of it is kept but its brand and its last four digits.
type Card struct {
	Number string `json:"number"` // with or without spaces
	Expiry string `json:"expiry"` // "MM/YY"
	Code   string `json:"code"`   // three or four digits
}

// Brand is the name of who issued the card, as far as the number tells.
func (c Card) Brand() string {
	switch n := digits(c.Number); {
	case strings.HasPrefix(n, "4"):
		return "Visa"
	case len(n) > 1 && n[0] == '5' && n[1] >= '1' && n[1] <= '5':
		return "Mastercard"
	case strings.HasPrefix(n, "34"), strings.HasPrefix(n, "37"):
		return "American Express"
	}
	return "Card"
}

func digits(s string) string {
	return strings.NewReplacer(" ", "", "-", "", "\u00a0", "").Replace(s)
}

// check returns what is wrong with a card before anybody is asked.
func (c Card) check(now time.Time) error {
	n := digits(c.Number)
	if len(n) < 12 || len(n) > 19 || strings.Trim(n, "0123456789") != "" || !luhn(n) {
		return rest.Invalid("number", "This is not the number of a card. Please compare it with your card.")
	}
	month, year, ok := strings.Cut(strings.ReplaceAll(c.Expiry, " ", ""), "/")
	m, err1 := strconv.Atoi(month)
	y, err2 := strconv.Atoi(year)
	if !ok || err1 != nil || err2 != nil || m < 1 || m > 12 || len(year) != 2 {
		return rest.Invalid("expiry", "Month and year are needed, as on the card: 04/29.")
	}
	if end := time.Date(2000+y, time.Month(m)+1, 1, 0, 0, 0, 0, time.UTC); !end.After(now) {
		return rest.Invalid("expiry", "This card has expired.")
	}
	if len(c.Code) < 3 || len(c.Code) > 4 || strings.Trim(c.Code, "0123456789") != "" {
		return rest.Invalid("code", "The three or four digits of the security code are needed.")
	}
	return nil
}

// luhn checks the last digit of a number (ISO/IEC 7812-1, annex B).
func luhn(n string) bool {
	sum := 0
	for i := range len(n) {
		d := int(n[len(n)-1-i] - '0')
		if i%2 == 1 {
			if d *= 2; d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}

package docker

import (
	"strconv"
	"strings"
)

// Of signal(7), as Linux on amd64 and arm64 has it: the engine's side, whatever this side is.
func signals() map[string]int {
	return map[string]int{
		"HUP": 1, "INT": 2, "QUIT": 3, "ILL": 4, "TRAP": 5, "ABRT": 6, "BUS": 7, "FPE": 8, "KILL": 9, "USR1": 10, "SEGV": 11,
		"USR2": 12, "PIPE": 13, "ALRM": 14, "TERM": 15, "STKFLT": 16, "CHLD": 17, "CONT": 18, "STOP": 19, "TSTP": 20, "TTIN": 21,
		"TTOU": 22, "URG": 23, "XCPU": 24, "XFSZ": 25, "VTALRM": 26, "PROF": 27, "WINCH": 28, "IO": 29, "PWR": 30, "SYS": 31,
		"RTMIN": 34, "RTMIN+3": 37, "RTMAX": 64,
	}
}

// signalNumber reads a signal's name or number; 0 for what is none.
func signalNumber(text string) int {
	if n, err := strconv.Atoi(text); err == nil && n > 0 && n <= 64 {
		return n
	}
	return signals()[strings.TrimPrefix(strings.ToUpper(text), "SIG")]
}

// signalName returns the name of what ended a program, "" for a number that is none.
func signalName(n int) string {
	for name, number := range signals() {
		if number == n {
			return "SIG" + name
		}
	}
	return ""
}

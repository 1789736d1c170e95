package http1

import "strconv"

// AppendField appends a field line.
func AppendField(b []byte, name, value string) []byte {
	b = append(b, name...)
	b = append(b, ": "...)
	b = append(b, value...)
	return append(b, "\r\n"...)
}

// AppendStatusLine appends a status line; reason may be empty.
func AppendStatusLine(b []byte, minor, status int, reason string) []byte {
	if minor == 0 {
		b = append(b, "HTTP/1.0 "...)
	} else {
		b = append(b, "HTTP/1.1 "...)
	}
	b = append(b, byte('0'+status/100%10), byte('0'+status/10%10), byte('0'+status%10), ' ')
	b = append(b, reason...)
	return append(b, "\r\n"...)
}

// AppendChunk appends a chunk; data is not empty.
func AppendChunk(b, data []byte) []byte {
	b = strconv.AppendInt(b, int64(len(data)), 16)
	b = append(b, "\r\n"...)
	b = append(b, data...)
	return append(b, "\r\n"...)
}

// ChunkRoom is how many bytes PutChunkHead may need before the data.
const ChunkRoom = 18

// PutChunkHead writes the head of a chunk of n bytes so that it ends at the end of room, and returns where it begins.
func PutChunkHead(room []byte, n int) int {
	i := len(room)
	i--
	room[i] = '\n'
	i--
	room[i] = '\r'
	for {
		i--
		room[i] = "0123456789abcdef"[n&15]
		if n >>= 4; n == 0 {
			return i
		}
	}
}

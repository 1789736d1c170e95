package catalog

import (
	"strings"
	"unicode"

	"golang.org/x/text/runes"
	"golang.org/x/text/transform"
	"golang.org/x/text/unicode/norm"

	"evergreen/database"
)

// index is how a dialect finds words: what its table is made by, how a row gets into it, and how it is asked. In match and
// rank %s is the parameter that holds what query returns; the smaller the rank, the better.
type index struct {
	schema, insert, match, rank string
	and                         string
	ending                      string // makes the last word a beginning
	quote                       string
	fold                        func(string) string // before text is kept, and before it is looked for
}

var indexes = map[database.Dialect]index{
	database.SQLite: {
		schema: `
	CREATE VIRTUAL TABLE course_words USING fts5 (slug UNINDEXED, title, subject, teacher, summary, about,
		tokenize = 'porter unicode61 remove_diacritics 2', prefix = '2 3');`,
		insert: `INSERT INTO course_words (slug, title, subject, teacher, summary, about) VALUES ($1, $2, $3, $4, $5, $6)`,
		match:  `course_words MATCH %s`,
		rank:   `bm25(course_words, 0, 10, 6, 4, 2, 1)`,
		and:    " AND ", ending: "*", quote: `"`,
		fold: func(s string) string { return s },
	},
	database.Postgres: {
		schema: `
	CREATE TABLE course_words (slug TEXT PRIMARY KEY REFERENCES courses (slug) ON DELETE CASCADE, words TSVECTOR NOT NULL);
	CREATE INDEX course_words_by_word ON course_words USING gin (words);`,
		insert: `INSERT INTO course_words (slug, words) VALUES ($1,
		setweight(to_tsvector('english', $2), 'A') || setweight(to_tsvector('english', $3), 'B') ||
		setweight(to_tsvector('simple', $4), 'C') || setweight(to_tsvector('english', $5), 'C') ||
		setweight(to_tsvector('english', $6), 'D'))`,
		match: `w.words @@ to_tsquery('english', %s)`,
		rank:  `-ts_rank(w.words, to_tsquery('english', %s))`,
		and:   " & ", ending: ":*", quote: `'`,
		fold: withoutAccents,
	},
}

// withoutAccents returns s with é as e: PostgreSQL knows how by an extension only.
func withoutAccents(s string) string {
	folded, _, err := transform.String(transform.Chain(norm.NFD, runes.Remove(runes.In(unicode.Mn)), norm.NFC), s)
	if err != nil {
		return s
	}
	return folded
}

// query turns what a person typed into a full-text query: every word must occur, the last one as a beginning. It returns
// "" where there is no word in it. At most eight words count.
func (x index) query(text string) string {
	words := strings.FieldsFunc(text, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsDigit(r) })
	if len(words) == 0 {
		return ""
	}
	words = words[:min(len(words), 8)]
	for i := range words {
		words[i] = x.quote + words[i] + x.quote
	}
	return strings.Join(words, x.and) + x.ending
}

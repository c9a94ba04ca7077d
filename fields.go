package streamprox

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"golang.org/x/net/http/httpguts"
)

// What a configuration says of the fields of a message: which it names, and what becomes of
// their values.

// fieldEdit is the values that a field gets.
type fieldEdit struct {
	name   string
	values []string
}

// fieldEdits returns the fields in the order of their names, since a JSON object has
// none. check says what is wrong with a name; spelling is the same for names of one
// field.
func fieldEdits(fields http.Header, check func(name string) error, spelling func(name string) string) ([]fieldEdit, error) {
	var edits []fieldEdit
	seen := make(map[string]bool)
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		values := fields[name]
		if err := check(name); err != nil {
			return nil, err
		}
		if seen[spelling(name)] {
			return nil, fmt.Errorf("%s is there twice, in different spellings", name)
		}
		seen[spelling(name)] = true
		if len(values) == 0 {
			return nil, fmt.Errorf("%s has no value; to remove it use delete", name)
		}
		for _, value := range values {
			if err := checkFieldValue(value); err != nil {
				return nil, fmt.Errorf("%s: %w", name, err)
			}
		}
		edits = append(edits, fieldEdit{name, values})
	}
	return edits, nil
}

// valueReplacer replaces placeholders in values, and keeps the first error.
type valueReplacer struct {
	repl *caddy.Replacer // nil: there are none
	err  error
}

// replace returns the value of that name in the configuration. Whatever a client has put
// into it, it adds no line to the head.
func (r *valueReplacer) replace(name, value string) string {
	if r.repl != nil {
		value = r.repl.ReplaceAll(value, "")
	}
	if r.err == nil && strings.ContainsAny(value, lineBreaks) {
		r.err = fmt.Errorf("%s: CR, LF or NUL in the value", name)
	}
	return value
}

func (r *valueReplacer) all(edit fieldEdit) []string {
	values := make([]string, len(edit.values))
	for i, value := range edit.values {
		values[i] = r.replace(edit.name, value)
	}
	return values
}

// lineBreaks are the bytes that end a field line, or a string in C.
const lineBreaks = "\r\n\x00"

// untouchable holds the fields, in lower case, that are not for a configuration to
// change, and why.
var untouchable = map[string]string{
	"content-length":    framesBody,
	"transfer-encoding": framesBody,
	"trailer":           framesBody,
	"connection":        ofConnection,
	"keep-alive":        ofConnection,
	"proxy-connection":  ofConnection,
	"te":                ofConnection,
	"upgrade":           ofConnection,
	"http2-settings":    ofConnection,
	"expect":            "it decides when the client sends the body",
	"host":              "use 'host', which edits the request target too",
}

const (
	framesBody   = "it says where the body ends, and the body is sent on as it is"
	ofConnection = "it is about the connection, which the next handler looks after"
)

// checkFieldName returns an error for what is no field name or a field that must stay.
func checkFieldName(name, unaliased string) error {
	if err := checkFieldNameSyntax(name); err != nil {
		return err
	}
	if why, ok := untouchable[unaliased]; ok {
		return fmt.Errorf("%s cannot be edited: %s", name, why)
	}
	return nil
}

// checkFieldNameSyntax returns an error for what is no field name.
func checkFieldNameSyntax(name string) error {
	if !httpguts.ValidHeaderFieldName(name) {
		return fmt.Errorf("%q is not a field name", name)
	}
	return nil
}

// checkFieldValue returns an error for a value that no head can hold.
func checkFieldValue(value string) error {
	if !httpguts.ValidHeaderFieldValue(value) {
		return fmt.Errorf("%q holds what no field value can", value)
	}
	return nil
}

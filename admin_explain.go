package streamprox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"

	"github.com/caddyserver/caddy/v2"
)

// maxExplainBody bounds, in bytes, the body of a question to explain, which may hold a
// configuration.
const maxExplainBody = 16 << 20

// serveExplain answers POST /streamprox/explain.
func serveExplain(w http.ResponseWriter, r *http.Request) error {
	body, err := readQuestion(w, r)
	if err != nil {
		return err
	}
	var answer any
	question, err := parseExplainRequest(body)
	switch {
	case err != nil:
	case len(question.Config) > 0:
		answer, err = explainElsewhere(r.Context(), body)
	default:
		answer, err = explainLimited(caddy.ActiveContext(), question)
	}
	if err != nil {
		return questionError(err)
	}
	return writeJSON(w, answer)
}

// readQuestion reads the body of a question.
func readQuestion(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxExplainBody))
	if err != nil {
		var tooLarge *http.MaxBytesError
		if errors.As(err, &tooLarge) {
			return nil, apiError(http.StatusRequestEntityTooLarge, fmt.Errorf("the body has more than %d bytes", maxExplainBody))
		}
		return nil, apiError(http.StatusBadRequest, err)
	}
	return body, nil
}

// questionError is why a question has no answer, as the admin API says it.
func questionError(err error) error {
	failure := explainErrorOf(err)
	return apiError(failure.Status, failure)
}

// parseExplainRequest reads a question to explain.
func parseExplainRequest(body []byte) (*explainRequest, error) {
	question := new(explainRequest)
	if err := parseQuestion(body, question); err != nil {
		return nil, err
	}
	if _, err := question.given(); err != nil {
		return nil, err
	}
	return question, nil
}

// parseQuestion reads the JSON of a question.
func parseQuestion(body []byte, question any) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(question); err != nil {
		var wrongType *json.UnmarshalTypeError
		if errors.As(err, &wrongType) && wrongType.Field != "" {
			return explainErrorf(http.StatusBadRequest, "%s: %s is not %s", wrongType.Field, wrongType.Value, wrongType.Type)
		}
		return explainErrorf(http.StatusBadRequest, "%v", err)
	}
	return nil
}

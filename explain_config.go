package streamprox

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// A configuration that is not loaded is provisioned to be asked, as `caddy validate` does.
// Caddy does that for one configuration in a process: it replaces the logs, the storage and
// other things of the process for good. So it is done in a process of its own.

// explainConfigTime bounds the time of that process, in which a configuration is provisioned.
const explainConfigTime = 20 * time.Second

// explainElsewhere answers a question about a configuration that is not loaded, in a process
// of its own. The answer is the JSON of an explanation.
func explainElsewhere(ctx context.Context, question []byte) (json.RawMessage, error) {
	return limited(explainConfigTime+time.Second, func() (json.RawMessage, error) {
		ctx, cancel := context.WithTimeout(ctx, explainConfigTime)
		defer cancel()
		return runQuestion(ctx, "explain", question)
	})
}

// runQuestion runs this program to answer the question by the command of that name.
func runQuestion(ctx context.Context, name string, question []byte) (json.RawMessage, error) {
	program, err := os.Executable()
	if err != nil {
		return nil, err
	}
	var stdout, stderr bytes.Buffer
	command := exec.CommandContext(ctx, program, "streamprox", name, "--"+flagQuestion)
	command.Stdin, command.Stdout, command.Stderr = bytes.NewReader(question), &stdout, &stderr
	command.WaitDelay = time.Second
	err = command.Run()
	failure := new(explainError)
	switch {
	case ctx.Err() != nil:
		return nil, explainErrorf(http.StatusGatewayTimeout, "config: not provisioned within %s", explainConfigTime)
	case err == nil:
		return stdout.Bytes(), nil
	case json.Unmarshal(stdout.Bytes(), failure) == nil && failure.Status != 0:
		return nil, failure
	default:
		return nil, fmt.Errorf("%w: %.2000s", err, stderr.Bytes())
	}
}

// explainUnloaded answers the question about its configuration, as whileUnloaded does.
func explainUnloaded(question *explainRequest) (answer *explanation, err error) {
	err = whileUnloaded(question.Config, func(ctx caddy.Context) error {
		answer, err = explainLimited(ctx, question)
		return err
	})
	return answer, err
}

// whileUnloaded provisions the configuration, and calls f with it. It is for a process that
// does nothing else, and ends then.
func whileUnloaded(raw json.RawMessage, f func(caddy.Context) error) error {
	home, err := os.MkdirTemp("", "streamprox-explain")
	if err == nil {
		defer os.RemoveAll(home)
	} else {
		home = os.DevNull + "/none" // what a module stores is an error
	}
	config, err := inert(raw, home)
	if err != nil {
		return explainErrorf(http.StatusBadRequest, "config: %v", err)
	}
	ctx, err := caddy.ProvisionContext(config)
	if err != nil {
		return explainErrorf(http.StatusBadRequest, "config: %v", err)
	}
	return f(ctx)
}

// inert returns a configuration without what would act when it is provisioned: it stores
// nothing but in home, opens no log, serves no admin API, and checks no upstream.
func inert(raw json.RawMessage, home string) (*caddy.Config, error) {
	var fields map[string]any
	decoder := json.NewDecoder(bytes.NewReader(caddy.RemoveMetaFields(raw)))
	decoder.UseNumber()
	if err := decoder.Decode(&fields); err != nil {
		return nil, err
	}
	withoutChecks(fields["apps"])
	fields["admin"] = map[string]any{"disabled": true}
	fields["storage"] = map[string]any{"module": "file_system", "root": home}
	fields["logging"] = map[string]any{"logs": map[string]any{"default": map[string]any{"level": "ERROR"}}}
	stripped, err := json.Marshal(fields)
	if err != nil {
		return nil, err
	}
	config := new(caddy.Config)
	return config, caddy.StrictUnmarshalJSON(stripped, config)
}

// withoutChecks removes active health checks from a value of JSON.
func withoutChecks(value any) {
	switch v := value.(type) {
	case map[string]any:
		if checks, ok := v["health_checks"].(map[string]any); ok {
			delete(checks, "active")
		}
		for _, inner := range v {
			withoutChecks(inner)
		}
	case []any:
		for _, inner := range v {
			withoutChecks(inner)
		}
	}
}

// answerQuestion is the process that explainElsewhere begins: it reads the question and
// writes the answer, or an explainError and returns an error.
func answerQuestion(r io.Reader, w io.Writer) error {
	return answerWith(r, w, maxExplainBody, func(body []byte) (any, error) {
		question, err := parseExplainRequest(body)
		if err != nil {
			return nil, err
		}
		return explainUnloaded(question)
	})
}

// answerWith reads a question and writes the answer, or an explainError and returns an error.
func answerWith(r io.Reader, w io.Writer, limit int64, answer func(question []byte) (any, error)) error {
	body, err := io.ReadAll(io.LimitReader(r, limit))
	if err != nil {
		return err
	}
	answered, err := answer(body)
	if err == nil {
		return json.NewEncoder(w).Encode(answered)
	}
	return errors.Join(err, json.NewEncoder(w).Encode(explainErrorOf(err)))
}

package docs

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
)

// logBuffer keeps what a configuration logs.
type logBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// logBuffers has those of this process by their numbers.
var logBuffers struct {
	sync.Map
	count atomic.Int64
}

// newLog returns a log of Caddy with a level, and what is written to it.
func newLog(level string) (log map[string]any, written *logBuffer) {
	written = new(logBuffer)
	number := logBuffers.count.Add(1)
	logBuffers.Store(number, written)
	return map[string]any{
		"writer":  map[string]any{"output": "streamprox_docs", "buffer": number},
		"encoder": map[string]any{"format": "json"},
		"level":   level,
	}, written
}

func init() { caddy.RegisterModule(logWriter{}) }

// logWriter writes to a logBuffer.
type logWriter struct {
	Buffer int64 `json:"buffer"`
}

func (logWriter) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{ID: "caddy.logging.writers.streamprox_docs", New: func() caddy.Module { return new(logWriter) }}
}
func (w logWriter) WriterKey() string { return fmt.Sprint("streamprox_docs ", w.Buffer) }
func (w logWriter) String() string    { return w.WriterKey() }
func (w logWriter) OpenWriter() (io.WriteCloser, error) {
	buffer, ok := logBuffers.Load(w.Buffer)
	if !ok {
		return nil, fmt.Errorf("no buffer %d", w.Buffer)
	}
	return buffer.(*logBuffer), nil
}

func (l *logBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *logBuffer) Close() error { return nil }

func (l *logBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// last returns the last lines, but those of level DEBUG that are not of layer4.
func (l *logBuffer) last() string {
	var found []string
	for line := range strings.Lines(l.String()) {
		if !strings.Contains(line, `"level":"debug"`) || strings.Contains(line, `"logger":"layer4`) {
			found = append(found, line[:min(len(line), 500)])
		}
	}
	return strings.Join(found[max(0, len(found)-20):], "")
}

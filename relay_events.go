package streamprox

import (
	"context"
	"fmt"
	"sync"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/modules/caddyevents"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// maxHealthEvents bounds the events that wait for subscribers.
const maxHealthEvents = 1000

// healthEvents tells Caddy's events app of upstreams that go up or down, as reverse_proxy does.
// Subscribers may take their time, and do not hold up the health checks or a reload: events
// wait for them. They wait, too, until the configuration has started, since there are no
// subscribers before.
type healthEvents struct {
	ctx    caddy.Context
	app    *caddyevents.App
	logger *zap.Logger

	mu       sync.Mutex
	started  bool // the configuration has
	emitting bool // emit runs
	waiting  []healthEvent
}

type healthEvent struct{ name, host string }

// newHealthEvents subscribes to the start of the configuration that ctx is of.
func newHealthEvents(ctx caddy.Context, logger *zap.Logger) (*healthEvents, error) {
	app, err := ctx.App("events")
	if err != nil {
		return nil, fmt.Errorf("getting the events app: %w", err)
	}
	e := &healthEvents{ctx: ctx, app: app.(*caddyevents.App), logger: logger}
	return e, e.app.On("started", e)
}

// Handle implements caddyevents.Handler: the configuration has started.
func (e *healthEvents) Handle(context.Context, caddy.Event) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.started = true
	e.begin()
	return nil
}

// tell emits the event of a check by which the upstream has gone up or down. It does not wait.
func (e *healthEvents) tell(check upstream.HealthCheck) {
	event := healthEvent{name: "healthy", host: check.Host}
	if check.Err != nil {
		event.name = "unhealthy"
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.waiting) >= maxHealthEvents {
		e.logger.Warn("an event is lost: those before it wait for their subscribers", zap.String("event", event.name), zap.String("host", event.host))
		return
	}
	e.waiting = append(e.waiting, event)
	e.begin()
}

// begin lets emit run, if there is anything to emit. The caller holds mu.
func (e *healthEvents) begin() {
	if e.started && !e.emitting && len(e.waiting) > 0 {
		e.emitting = true
		go e.emit()
	}
}

// emit is the goroutine that calls the subscribers. It ends when no event waits.
func (e *healthEvents) emit() {
	for {
		e.mu.Lock()
		if len(e.waiting) == 0 || e.ctx.Err() != nil {
			e.waiting, e.emitting = nil, false
			e.mu.Unlock()
			return
		}
		event := e.waiting[0]
		e.waiting = e.waiting[1:]
		e.mu.Unlock()
		e.emitOne(event)
	}
}

// emitOne calls the subscribers of an event. One that panics ends no process.
func (e *healthEvents) emitOne(event healthEvent) {
	defer func() {
		if failure := recover(); failure != nil {
			e.logger.Error("a subscriber of an event panicked", zap.String("event", event.name), zap.Any("error", failure), zap.Stack("stack"))
		}
	}()
	e.app.Emit(e.ctx, event.name, map[string]any{"host": event.host})
}

// Interface guards
var _ caddyevents.Handler = (*healthEvents)(nil)

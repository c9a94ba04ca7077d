package streamprox

import (
	"errors"
	"net/http"
	"strconv"
	"sync/atomic"

	"github.com/caddyserver/caddy/v2"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/zap"

	"github.com/streamprox/caddy-streamprox/internal/descriptors"
	"github.com/streamprox/caddy-streamprox/internal/opening"
	"github.com/streamprox/caddy-streamprox/internal/relay"
	"github.com/streamprox/caddy-streamprox/internal/upstream"
)

// What Prometheus gets. Caddy has a registry for each configuration; the numbers are those of
// the process, so that a counter does not go back at a reload. They are read when somebody
// asks. docs/metrics.md says what they mean.
//
// The values of labels are names in the code, or come from the configuration, never from a
// client.
//
// Each metric is declared above the method of scrape that reads it.

// metric describes one of them.
type metric struct {
	name, kind, help string
	labels           []string
	desc             *prometheus.Desc
}

// The kinds of metrics.
const (
	counter   = "counter"
	gauge     = "gauge"
	histogram = "histogram"
)

// allMetrics holds all there are.
var allMetrics []*metric

// newMetric returns a metric, and adds it to allMetrics. The name goes without the prefix.
func newMetric(name, kind, help string, labels ...string) *metric {
	m := &metric{name: "caddy_streamprox_" + name, kind: kind, help: help, labels: labels}
	m.desc = prometheus.NewDesc(m.name, help, labels, nil)
	allMetrics = append(allMetrics, m)
	return m
}

// registerMetrics adds the metrics to those of the configuration that ctx is of.
func registerMetrics(ctx caddy.Context) {
	registry := ctx.GetMetricsRegistry()
	if registry == nil {
		return
	}
	err := registry.Register(theCollector)
	if known := (prometheus.AlreadyRegisteredError{}); err != nil && !errors.As(err, &known) {
		ctx.Logger().Warn("there are no metrics of streamprox", zap.Error(err))
	}
}

// collector reads all metrics.
type collector struct{}

var theCollector prometheus.Collector = new(collector)

// Describe implements prometheus.Collector.
func (*collector) Describe(ch chan<- *prometheus.Desc) {
	for _, m := range allMetrics {
		ch <- m.desc
	}
}

// Collect implements prometheus.Collector.
func (*collector) Collect(ch chan<- prometheus.Metric) {
	s := scrape(ch)
	s.inspections()
	routesCounted.each(s.route)
	for address, status := range upstream.Statuses() {
		s.upstream(address, status)
	}
	s.engine()
	s.listeners()
	s.descriptors()
	s.value(accessLogLost, float64(accessLines.lost.Load()))
}

// scrape is one collection.
type scrape chan<- prometheus.Metric

// value gives the value of a counter or gauge.
func (s scrape) value(m *metric, value float64, labels ...string) {
	kind := prometheus.GaugeValue
	if m.kind == counter {
		kind = prometheus.CounterValue
	}
	s <- prometheus.MustNewConstMetric(m.desc, kind, value, labels...)
}

// count gives the value of a counter that is left out while it is 0, unless it is usual.
func (s scrape) count(m *metric, n *atomic.Uint64, usual bool, labels ...string) {
	if value := n.Load(); value > 0 || usual {
		s.value(m, float64(value), labels...)
	}
}

var (
	inspectionSeconds = newMetric("inspection_duration_seconds", histogram,
		"Time from the beginning of an inspection to the last packet that it needed.")
	inspectingConnections = newMetric("inspecting_connections", gauge,
		"Connections of which inspect reads a head.")
	inspectingBytes = newMetric("inspecting_bytes", gauge,
		"Bytes of heads that are not complete.")
	refusalsTotal = newMetric("refusals_total", counter,
		"Connections and requests that were refused or closed here.", "reason")
	answersTotal = newMetric("answers_total", counter,
		"Responses that were made here.", "status")
)

func (s scrape) inspections() {
	n, sum, buckets := inspectionTook.Read()
	s <- prometheus.MustNewConstHistogram(inspectionSeconds.desc, n, sum, buckets)
	s.value(inspectingConnections, float64(inspecting.connections.Load()))
	s.value(inspectingBytes, float64(inspecting.bytes.Load()))
	for i, reason := range refusalNames {
		s.value(refusalsTotal, float64(refusals[i].Load()), reason)
	}
	for status := range ownAnswers {
		s.count(answersTotal, &ownAnswers[status], isUsualAnswer(status), strconv.Itoa(status))
	}
}

// isUsualAnswer reports whether there may be an answer with that status in any configuration.
func isUsualAnswer(status int) bool {
	switch status {
	case http.StatusBadRequest, http.StatusNotFound, http.StatusRequestTimeout, http.StatusRequestHeaderFieldsTooLarge,
		http.StatusNotImplemented, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout, http.StatusLoopDetected:
		return true
	}
	return false
}

var (
	inspectionsTotal = newMetric("inspections_total", counter,
		"Heads, or beginnings of connections, that inspect has judged.", "outcome", "route")
	streamsActive = newMetric("streams_active", gauge,
		"What is under way at a destination.", "destination", "kind", "route")
	streamsEndedTotal = newMetric("streams_ended_total", counter,
		"What was under way at a destination and has ended.", "destination", "kind", "route", "cause")
	repeatedTotal = newMetric("requests_repeated_total", counter,
		"Requests that went up on a fresh connection, because the kept one had been closed.", "route")
	unreachedTotal = newMetric("unreached_total", counter,
		"Clients for which no upstream was reached.", "route", "reason")
)

func (s scrape) route(route string, c *routeCounts) {
	for i, outcome := range opening.Names() {
		s.count(inspectionsTotal, &c.inspections[i], i == int(opening.HTTP), outcome, route)
	}
	for kind, names := range underWayNames {
		streams := &c.streams[kind]
		if !streams.used.Load() {
			continue
		}
		s.value(streamsActive, float64(streams.active.Load()), names.destination, names.kind, route)
		usual := relay.Finished
		if underWay(kind) == appConnection {
			usual = endClosed
		}
		for cause, name := range endNames {
			s.count(streamsEndedTotal, &streams.ended[cause], relay.Cause(cause) == usual, names.destination, names.kind, route, name)
		}
	}
	if c.streams[relayRequest].used.Load() {
		s.count(repeatedTotal, &c.repeated, true, route)
		for i, reason := range upstream.ReasonNames() {
			s.count(unreachedTotal, &c.unreached[i], upstream.Reason(i) == upstream.NoneAvailable, route, reason)
		}
	}
}

var (
	dialsTotal = newMetric("dials_total", counter,
		"Attempts to connect to an upstream for a client.", "upstream", "result")
	dialSeconds = newMetric("dial_duration_seconds", histogram,
		"Time that it took to connect to an upstream.", "upstream")
	upstreamHealthy = newMetric("upstream_healthy", gauge,
		"Whether neither health checks nor failed dials count against an upstream.", "upstream")
	checkHealthy = newMetric("upstream_check_healthy", gauge,
		"What the active health checks of a kind say of an upstream.", "upstream", "check")
	healthChanges = newMetric("upstream_health_changes_total", counter,
		"How often an upstream has gone up, or down, by the active health checks of a kind.", "upstream", "check", "to")
	ejectionsTotal = newMetric("upstream_ejections_total", counter,
		"How often an upstream was ejected, since streams to it had failed.", "upstream")
	reusedTotal = newMetric("upstream_connections_reused_total", counter,
		"Requests that went up on a connection which an earlier one had left.", "upstream")
)

func (s scrape) upstream(address string, status *upstream.Status) {
	for result, n := range status.Dials {
		s.value(dialsTotal, float64(n), address, result)
	}
	var count uint64
	var sum float64
	buckets := make(map[float64]uint64)
	for _, took := range status.Took {
		n, seconds, more := took.Read()
		count, sum = count+n, sum+seconds
		for bound, n := range more {
			buckets[bound] += n
		}
	}
	s <- prometheus.MustNewConstHistogram(dialSeconds.desc, count, sum, buckets, address)
	s.value(upstreamHealthy, oneIf(status.Healthy), address)
	s.value(ejectionsTotal, float64(status.Ejected), address)
	for check, c := range status.Checks {
		s.value(checkHealthy, oneIf(c.Healthy), address, check)
		s.value(healthChanges, float64(c.Ups), address, check, "up")
		s.value(healthChanges, float64(c.Downs), address, check, "down")
	}
	s.value(reusedTotal, float64(status.Reused), address)
}

var (
	keptConnections = newMetric("kept_connections", gauge,
		"Clients' connections that wait for their next request in the event engine.", "state")
	bytesTotal = newMetric("bytes_total", counter,
		"Bytes delivered, also of what still goes on.", "destination", "direction")
	enginePipes = newMetric("engine_pipes", gauge,
		"Pipes through which relayed bytes go in bulk.")
)

func (s scrape) engine() {
	c := relay.Count()
	s.value(keptConnections, float64(c.Waiting), "waiting")
	s.value(keptConnections, float64(parkedConnections.Load()), "parked")
	s.value(bytesTotal, float64(c.ToUpstream), "relay", "to_destination")
	s.value(bytesTotal, float64(c.ToClient), "relay", "to_client")
	s.value(bytesTotal, float64(appBytes.toServer.Load()), "http_app", "to_destination")
	s.value(bytesTotal, float64(appBytes.toClient.Load()), "http_app", "to_client")
	s.value(enginePipes, float64(c.Pipes))
}

var (
	handOffsTotal = newMetric("hand_offs_total", counter,
		"Connections that http_app has delivered.", "listener")
	listenerAccepting = newMetric("listener_accepting", gauge,
		"Whether connections to a port are accepted.", "address")
)

func (s scrape) listeners() {
	handOffs.each(func(listener string, n *atomic.Uint64) { s.value(handOffsTotal, float64(n.Load()), listener) })
	ports := make(acceptedPorts) // the same ones may be watched by two configurations
	acceptWatches.Range(func(_, watch any) bool {
		if watched := watch.(*acceptWatch).ports.Load(); watched != nil {
			for address, accepting := range *watched {
				ports.add(address, accepting)
			}
		}
		return true
	})
	for address, accepting := range ports {
		s.value(listenerAccepting, oneIf(accepting), address)
	}
}

var (
	descriptorsOpen = newMetric("descriptors_open", gauge,
		"Descriptors that the process has open.")
	descriptorsLimit = newMetric("descriptors_limit", gauge,
		"Descriptors that the process may have open.")
)

func (s scrape) descriptors() {
	if open, err := descriptors.Count(); err == nil {
		s.value(descriptorsOpen, float64(open))
	}
	if limit, limited := descriptors.Limit(); limited {
		s.value(descriptorsLimit, float64(limit))
	}
}

var accessLogLost = newMetric("access_log_lost_total", counter,
	"Lines of the access log that were not written, because its output takes them too slowly.")

func oneIf(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// Interface guards
var _ prometheus.Collector = (*collector)(nil)

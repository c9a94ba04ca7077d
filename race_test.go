//go:build race

package streamprox

// manyStreams is how many streams a list has to stand: with the race detector, more would take
// minutes.
const manyStreams = 10_000

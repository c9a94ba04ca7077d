//go:build !race

package streamprox

// manyStreams is how many streams a list has to stand.
const manyStreams = 100_000

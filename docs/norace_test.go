//go:build !race

package docs

// raceDetector reports whether the race detector watches.
const raceDetector = false

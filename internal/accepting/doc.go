// Package accepting looks after the listening sockets of the process, whoever owns them: it
// finds them, tells whether anybody still accepts from one, and gives out a listener of its
// own on it.
//
// Linux can; elsewhere [Supported] is false.
package accepting

// looksStalled is how many looks in a row find connections that wait in the queue of a
// listener, and none taken from it, before it counts as stopped. One that is alive but slow
// takes some.
const looksStalled = 4

package main

import (
	"encoding/json"
	"fmt"
	"os"

	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"

	_ "github.com/streamprox/caddy-streamprox"
)

// roleVariable says, in the environment of a process that this command has started from
// its own executable, what that process is.
const roleVariable = "STREAMPROX_COMPARE_ROLE"

const (
	roleCaddy   = "caddy"   // an ordinary caddy command
	roleBackend = "backend" // the server behind the relays
	roleLoad    = "load"    // the clients
)

// runRole does what this process was started for. It returns false if nothing is said
// about that: the process is then the command itself.
func runRole() bool {
	role := os.Getenv(roleVariable)
	if role == "" {
		return false
	}
	var err error
	switch role {
	case roleCaddy:
		caddycmd.Main() // exits
	case roleBackend:
		err = serveBackend(os.Args[1])
	case roleLoad:
		err = runLoad()
	default:
		err = fmt.Errorf("unknown role %q", role)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	return true
}

// runLoad reads a job from standard input and prints its result. With a job that holds
// connections it then waits for the end of the input, and prints how many are still open.
func runLoad() error {
	in := json.NewDecoder(os.Stdin)
	var j job
	if err := in.Decode(&j); err != nil {
		return fmt.Errorf("reading the job: %w", err)
	}
	r, held, err := j.run()
	if err != nil {
		return err
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return err
	}
	if held != nil {
		var end any
		_ = in.Decode(&end) // returns at the end of the input
		return json.NewEncoder(os.Stdout).Encode(release(held))
	}
	return nil
}

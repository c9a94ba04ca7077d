// Command xcaddy builds Caddy from a file that holds an xcaddy Builder as JSON.
//
// In the root of the repository, this writes a Caddy that contains the checkout
// in place of a published version to ./caddy:
//
//	go run -C tools ./xcaddy -config ../xcaddy.json -output ../caddy \
//		-replace github.com/streamprox/caddy-streamprox=..
//
// The fields of the file are those of https://pkg.go.dev/github.com/caddyserver/xcaddy#Builder.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/caddyserver/xcaddy"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	err := run(ctx, os.Args[1:])
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		log.Fatalf("[FATAL] %v", err)
	}
}

// run builds what args ask for. When ctx ends, so does the go command that
// is running, and the temporary build folder is removed.
func run(ctx context.Context, args []string) error {
	flags := flag.NewFlagSet("xcaddy", flag.ContinueOnError)
	config := flags.String("config", "xcaddy.json", "the Builder, as JSON, in `file`")
	output := flags.String("output", "caddy", "write the binary to `file`")
	var replacements []xcaddy.Replace
	flags.Func("replace", "take a module from a directory, `module=path`; repeatable", func(arg string) error {
		r, err := parseReplace(arg)
		replacements = append(replacements, r)
		return err
	})
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q: see -help", flags.Arg(0))
	}

	builder, err := readBuilder(*config)
	if err != nil {
		return err
	}
	replace(&builder, replacements)
	describe(builder, *output)
	return builder.Build(ctx, *output)
}

// readBuilder reads a Builder from a JSON file. A field that Builder does not
// have is an error, since a misspelt one would build something else.
func readBuilder(file string) (xcaddy.Builder, error) {
	var builder xcaddy.Builder
	f, err := os.Open(file)
	if err != nil {
		return builder, err
	}
	defer f.Close()

	decoder := json.NewDecoder(f)
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&builder); err != nil {
		return builder, fmt.Errorf("reading builder %s: %w", file, err)
	}
	if _, err := decoder.Token(); err != io.EOF {
		return builder, fmt.Errorf("reading builder %s: more than one JSON value", file)
	}
	return builder, nil
}

// parseReplace reads module=path. The path becomes absolute, because xcaddy
// builds in a folder of its own.
func parseReplace(arg string) (xcaddy.Replace, error) {
	module, path, found := strings.Cut(arg, "=")
	if !found || module == "" || path == "" {
		return xcaddy.Replace{}, errors.New("want module=path")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return xcaddy.Replace{}, err
	}
	return xcaddy.NewReplace(module, path), nil
}

// replace adds the replacements to the builder. A plugin from a directory gets
// a version if it has none: go get would otherwise ask the module proxy which
// ones are published, and fail where none is.
func replace(builder *xcaddy.Builder, replacements []xcaddy.Replace) {
	builder.Replacements = append(builder.Replacements, replacements...)
	for i, plugin := range builder.Plugins {
		for _, r := range replacements {
			if plugin.PackagePath == r.Old.String() && plugin.Version == "" {
				builder.Plugins[i].Version = "v0.0.0"
			}
		}
	}
}

// describe logs what is about to be built; xcaddy logs each step after that.
func describe(builder xcaddy.Builder, output string) {
	version := builder.CaddyVersion
	if version == "" {
		version = "latest"
	}
	log.Printf("[INFO] Building %s: Caddy %s", output, version)
	for _, plugin := range builder.Plugins {
		log.Printf("[INFO] with %s", plugin)
	}
	for _, r := range builder.Replacements {
		log.Printf("[INFO] where %s is %s", r.Old, r.New)
	}
}

package streamprox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"github.com/spf13/cobra"
)

// exitDiffers is the exit code of replay if not everything is known to go where it went.
const exitDiffers = 3

// replayCommand returns the command `caddy streamprox replay`.
func replayCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "replay --config <path> [--adapter <name>] [--listen <address>] [--json] [--address <interface>]",
		Short: "Says which of the last decisions another configuration would make otherwise",
		Long: `
Takes the last decisions of the running Caddy to a configuration that is not loaded, and
prints which requests and streams would go elsewhere, from where to where and how many.
Nothing is sent anywhere.

The option 'replay' of inspect says how many decisions are kept; without it there are none.
The values of fields and the query are not kept: what depends on them is unknown, and
printed as that.

The exit code is 0 if everything would go where it went, 3 if not or if that is unknown, and
1 if there is no answer.`,
		Example: `  caddy streamprox replay --config new.caddyfile`,
		Args:    cobra.NoArgs,
		RunE:    caddycmd.WrapCommandFuncForCobra(cmdReplay),

		SilenceErrors: true, // Caddy logs them, and exitDiffers is none
	}
	command.Flags().StringP("config", "c", "", "Configuration file to take the decisions to")
	command.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
	command.Flags().StringP("listen", "l", "", "Only decisions of connections that have come in at this address")
	command.Flags().Bool("json", false, "Print JSON")
	command.Flags().String("address", "", "Address of the administration listener, if not the default")
	command.Flags().Bool(flagQuestion, false, "Answer a question of the admin API")
	_ = command.Flags().MarkHidden(flagQuestion)
	return command
}

// cmdReplay is `caddy streamprox replay`.
func cmdReplay(fl caddycmd.Flags) (int, error) {
	if fl.Bool(flagQuestion) {
		if err := answerReplay(os.Stdin, os.Stdout); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		return caddy.ExitCodeSuccess, nil
	}
	return runCmdReplay(fl, os.Stdout)
}

// runCmdReplay is cmdReplay with that output.
func runCmdReplay(fl caddycmd.Flags, out io.Writer) (int, error) {
	if fl.String("config") == "" {
		return caddy.ExitCodeFailedStartup, errors.New("--config: name the configuration to take the decisions to")
	}
	config, _, _, err := caddycmd.LoadConfig(fl.String("config"), fl.String("adapter"))
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	question, err := json.Marshal(replayRequest{Config: config, Listen: fl.String("listen")})
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, "", "")
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	client, err := newAdminClient(address)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	defer client.close()
	answer := new(replayAnswer)
	if err := client.ask(context.Background(), http.MethodPost, "/streamprox/replay", question, answer); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if fl.Bool("json") {
		err = printJSON(out, answer)
	} else {
		_, err = io.WriteString(out, answer.text())
	}
	switch {
	case err != nil:
		return caddy.ExitCodeFailedStartup, fmt.Errorf("printing the answer: %w", err)
	case answer.Same < answer.Decisions:
		return exitDiffers, nil
	}
	return caddy.ExitCodeSuccess, nil
}

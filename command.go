package streamprox

import (
	"bytes"
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

// flagQuestion is the flag by which a process answers for another one.
const flagQuestion = "question"

func init() {
	caddycmd.RegisterCommand(caddycmd.Command{
		Name:  "streamprox",
		Short: "Shows and steers streams, and explains the routing of connections",
		CobraFunc: func(command *cobra.Command) {
			command.AddCommand(explainCommand(), replayCommand())
			command.AddCommand(streamsCommands()...)
		},
	})
}

// explainCommand returns the command `caddy streamprox explain`.
func explainCommand() *cobra.Command {
	command := &cobra.Command{
		Use:   "explain [--listen <address>] [--client <address>] [--end] [--crlf] [--json] [--address <interface>] [--config <path> [--adapter <name>]]",
		Short: "Says what would become of a connection that begins with the bytes on the standard input, and why",
		Long: `
Takes the bytes on the standard input through the routes of a listener, and prints what
each route and matcher answers, where the bytes would go and what becomes of the next
request. Nothing is sent anywhere.

The running Caddy is asked, by its admin API. With --config a configuration is asked that
need not be loaded, and no Caddy need run.`,
		Example: `  caddy streamprox explain --listen :443 < head.txt`,
		Args:    cobra.NoArgs,
		RunE:    caddycmd.WrapCommandFuncForCobra(cmdExplain),
	}
	command.Flags().StringP("listen", "l", "", "Where the connection comes in: an address, or the name of a server")
	command.Flags().String("client", "", "The address of the client")
	command.Flags().Bool("end", false, "The client has finished sending")
	command.Flags().Bool("crlf", false, "Make CR LF of each line end of the standard input")
	command.Flags().Bool("json", false, "Print JSON")
	command.Flags().String("address", "", "Address of the administration listener, if not the default")
	command.Flags().StringP("config", "c", "", "Configuration file to ask in the place of the running Caddy")
	command.Flags().StringP("adapter", "a", "", "Name of config adapter to apply")
	command.Flags().Bool(flagQuestion, false, "Answer a question of the admin API")
	_ = command.Flags().MarkHidden(flagQuestion)
	return command
}

// cmdExplain is `caddy streamprox explain`.
func cmdExplain(fl caddycmd.Flags) (int, error) { return runCmdExplain(fl, os.Stdin, os.Stdout) }

// runCmdExplain is cmdExplain with these files.
func runCmdExplain(fl caddycmd.Flags, in io.Reader, out io.Writer) (int, error) {
	if fl.Bool(flagQuestion) {
		if err := answerQuestion(in, out); err != nil {
			return caddy.ExitCodeFailedStartup, err
		}
		return caddy.ExitCodeSuccess, nil
	}
	question := &explainRequest{Listen: fl.String("listen"), Client: fl.String("client"), End: fl.Bool("end")}
	if err := question.read(in, fl.Bool("crlf")); err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	answer, err := ask(fl, question)
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	if !fl.Bool("json") {
		_, err = io.WriteString(out, answer.text())
	} else {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "\t")
		err = encoder.Encode(answer)
	}
	if err != nil {
		return caddy.ExitCodeFailedStartup, err
	}
	return caddy.ExitCodeSuccess, nil
}

// read reads the bytes of the connection.
func (r *explainRequest) read(in io.Reader, crlf bool) error {
	data, err := io.ReadAll(io.LimitReader(in, maxExplained+1))
	if err != nil {
		return fmt.Errorf("reading the standard input: %w", err)
	}
	if crlf {
		data = bytes.ReplaceAll(data, []byte("\r\n"), []byte("\n"))
		data = bytes.ReplaceAll(data, []byte("\n"), []byte("\r\n"))
	}
	r.Bytes = data
	_, err = r.given()
	return err
}

// ask asks the running Caddy, or the configuration that the flags name.
func ask(fl caddycmd.Flags, question *explainRequest) (*explanation, error) {
	file, adapter := fl.String("config"), fl.String("adapter")
	switch {
	case file == "-":
		return nil, errors.New("--config: the standard input holds the bytes; name a file")
	case file == "" && adapter != "":
		return nil, errors.New("--adapter: name the file with --config")
	case file != "" && fl.String("address") != "":
		return nil, errors.New("--config asks a file, and --address a running Caddy: give one of them")
	case file != "":
		var err error
		if question.Config, _, _, err = caddycmd.LoadConfig(file, adapter); err != nil {
			return nil, err
		}
		return explainUnloaded(question)
	}
	body, err := json.Marshal(question)
	if err != nil {
		return nil, err
	}
	address, err := caddycmd.DetermineAdminAPIAddress(fl.String("address"), nil, "", "")
	if err != nil {
		return nil, err
	}
	client, err := newAdminClient(address)
	if err != nil {
		return nil, err
	}
	defer client.close()
	answer := new(explanation)
	return answer, client.ask(context.Background(), http.MethodPost, "/streamprox/explain", body, answer)
}

package streamprox

import (
	"fmt"
	"os"
	"testing"

	"github.com/caddyserver/caddy/v2"
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	"go.uber.org/goleak"

	_ "github.com/caddyserver/caddy/v2/modules/standard"
	_ "github.com/mholt/caddy-l4"
)

// TestMain fails if the tests leave goroutines behind. What Caddy and its modules
// keep for the life of the process is begun before they are counted.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "streamprox" {
		caddycmd.Main() // as which tests of commands run this program
		return
	}
	if err := keepCaddyRunning(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent())
}

// keepCaddyRunning begins what Caddy never ends, such as the maintenance of its
// certificate cache.
func keepCaddyRunning() error {
	home, err := os.MkdirTemp("", "streamprox")
	if err != nil {
		return err
	}
	defer os.RemoveAll(home)
	config := &caddy.Config{
		Admin:      &caddy.AdminConfig{Disabled: true},
		StorageRaw: []byte(fmt.Sprintf(`{"module":"file_system","root":%q}`, home)),
		AppsRaw:    caddy.ModuleMap{"tls": []byte(`{}`)},
	}
	return caddy.Validate(config)
}

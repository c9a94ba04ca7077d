package main

import (
	"fmt"
	"path/filepath"
)

// Sections of HAProxy's configuration, for a name, an address to listen on, and that of the
// server behind it.
const (
	haproxyStreams = `listen %[1]s
	bind %[2]s backlog 4096
	server backend %[3]s
`
	haproxyRequests = `frontend %[1]s
	bind %[2]s backlog 4096
	use_backend %[1]s-backend if { path_beg /app/ }
backend %[1]s-backend
	server backend %[3]s
`
)

// haproxyCommand starts HAProxy with defaults, with a section for each port, and with as many
// threads as the others have cores on a machine of two. By default it keeps no connection to a
// server while more than a fifth of its descriptors are in use, which here is at 4,000 clients.
func haproxyCommand(defaults, section string) func(string, places) ([]string, error) {
	return func(dir string, p places) ([]string, error) {
		text := fmt.Sprintf(`global
	nbthread 2
	maxconn %d
	maxpipes 200
	tune.pool-low-fd-ratio 90
	tune.pool-high-fd-ratio 95
defaults
	%s
	timeout connect 5s
	timeout client 1h
	timeout server 1h
`, mostStreams+100, defaults) +
			fmt.Sprintf(section, "streams", p.streams, p.streamBackend) +
			fmt.Sprintf(section, "requests", p.requests, p.requestBackend)
		config, err := write(dir, "haproxy-"+port(p.streams)+".cfg", text)
		return []string{"haproxy", "-db", "-f", config}, err
	}
}

// nginxProxyCommand starts nginx as a proxy with a worker for each core of a machine of two.
func nginxProxyCommand(dir string, p places) ([]string, error) {
	server := func(listen, upstream string) string {
		return fmt.Sprintf(`	server {
		listen %s backlog=4096;
		location /app/ {
			proxy_pass http://%s;
		}
	}
`, listen, upstream)
	}
	// Connection is what an upgrade needs, and empty where the connection may be kept.
	return nginxCommand(dir, "proxy-"+port(p.streams), "worker_processes 2", 2*mostStreams+200,
		fmt.Sprintf(`	keepalive_timeout 1h;
	proxy_http_version 1.1;
	proxy_read_timeout 1h;
	proxy_set_header Host $http_host;
	proxy_set_header Upgrade $http_upgrade;
	proxy_set_header Connection $connection_upgrade;
	map $http_upgrade $connection_upgrade {
		default upgrade;
		"" "";
	}
	upstream streams {
		server %s;
	}
	upstream requests {
		server %s;
		keepalive 64;
	}
`, p.streamBackend, p.requestBackend)+server(p.streams, "streams")+server(p.requests, "requests"))
}

// nginxBackendCommand starts nginx as the server behind the relays.
func nginxBackendCommand(dir, address string) ([]string, error) {
	return nginxCommand(dir, "backend", "master_process off", mostStreams+100, fmt.Sprintf(`	keepalive_requests 1000000000;
	keepalive_timeout 1h;
	server {
		listen %s backlog=4096;
		location / {
			return 200 "%s";
		}
	}
`, address, body))
}

// nginxCommand starts nginx, with a name for its files, a directive that says of what
// processes it consists, so many connections for each, and what it serves.
func nginxCommand(dir, name, processes string, connections int, http string) ([]string, error) {
	config, err := write(dir, name+".conf", fmt.Sprintf(`daemon off;
%s;
worker_rlimit_nofile %d;
pid %s.pid;
error_log stderr crit;
events {
	worker_connections %[2]d;
}
http {
	access_log off;
	client_body_temp_path %[3]s-body;
	proxy_temp_path %[3]s-proxy;
	fastcgi_temp_path %[3]s-fastcgi;
	uwsgi_temp_path %[3]s-uwsgi;
	scgi_temp_path %[3]s-scgi;
%s}
`, processes, connections, filepath.Join(dir, name), http))
	return []string{"nginx", "-e", "stderr", "-p", dir, "-c", config}, err
}

# Caddy with caddy-l4 and streamprox, in an image that runs without root.
#
#	docker build -t caddy-streamprox .
#	docker run -d --name caddy -p 80:80 -p 443:443 -p 443:443/udp \
#		-v "$PWD/Caddyfile:/etc/caddy/Caddyfile:ro" -v caddy_data:/data -v caddy_config:/config \
#		caddy-streamprox
#
# A changed Caddyfile, without losing a connection:
#
#	docker exec caddy caddy reload --config /etc/caddy/Caddyfile
#
# The versions of Caddy and caddy-l4 are those of go.mod.

FROM --platform=$BUILDPLATFORM golang:1.26-alpine AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG TARGETOS
ARG TARGETARCH
# The tags leave out databases that Caddy's ACME server could use.
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH go build -trimpath -buildvcs=false \
	-ldflags='-s -w' -tags=nobadger,nomysql,nopgx -o /caddy ./cmd/caddy

FROM alpine:3.22
RUN apk add --no-cache ca-certificates mailcap tzdata \
	&& addgroup -S -g 65532 caddy \
	&& adduser -S -D -H -u 65532 -G caddy -h /data caddy \
	&& mkdir -p /data/caddy /config/caddy /etc/caddy /srv \
	&& chown -R caddy:caddy /data /config
COPY --from=build /caddy /usr/bin/caddy
COPY contrib/docker/Caddyfile /etc/caddy/Caddyfile

# Certificates and keys are in /data: keep it. In /config is the configuration that
# the admin API was given last.
ENV XDG_DATA_HOME=/data XDG_CONFIG_HOME=/config
VOLUME /data /config
WORKDIR /srv

# A number, so that Kubernetes can tell that it is not root. Docker (20.10 and later)
# lets every user of a container listen on port 80. Where that fails with "permission
# denied", set the sysctl net.ipv4.ip_unprivileged_port_start=0 for the container.
USER 65532:65532
EXPOSE 80 443 443/udp

# The admin API answers while a configuration runs. It listens inside the container only.
# This path, unlike its others, is not logged at each request. With "admin off" or
# another address, replace this check.
HEALTHCHECK --interval=30s --timeout=3s --start-period=10s \
	CMD ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:2019/metrics"]

# At SIGTERM the HTTP app waits for its requests, without end if no grace_period is set,
# and then relay for its streams, for grace_period or 10 s. Give "docker stop" more time
# than twice the grace_period: --time 30.
STOPSIGNAL SIGTERM
CMD ["caddy", "run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]

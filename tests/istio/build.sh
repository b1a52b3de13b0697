#!/usr/bin/env bash
# build.sh [OUT]: builds istiod (lab), pilot-agent, istioctl, Istio's echo application and its authorization service into OUT (bin/ beside this
# file), from the Go module whose version lab/go.mod pins.
set -euo pipefail
out=${1:-$(dirname "$0")/bin}
mkdir -p "$out"
out=$(cd "$out" && pwd)
cd "$(dirname "$0")/lab"
module=istio.io/istio
# One call, so that packages that several of them share are compiled once and in parallel. No debug information: it is half of the link time.
packages=(. "$module/pilot/cmd/pilot-agent" "$module/istioctl/cmd/istioctl" "$module/samples/extauthz/cmd/extauthz")
go build -ldflags='-s -w' -o "$out/" "${packages[@]}"
mv "$out/istiod-lab" "$out/lab"
go build -ldflags='-s -w' -o "$out/echo-server" "$module/pkg/test/echo/cmd/server"
go build -ldflags='-s -w' -o "$out/echo-client" "$module/pkg/test/echo/cmd/client"
install -m 644 "$(go list -m -f '{{.Dir}}' "$module")/tools/packaging/common/envoy_bootstrap.json" "$out/envoy_bootstrap.json"

#!/bin/sh
# Builds the vCenter simulator into the folder $1: `plain`, as Debian has it, and `extended`, with what is ours.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$1/simulator"
out=$(cd "$1" && pwd)
export GO111MODULE=off GOPATH=/usr/share/gocode CGO_ENABLED=0 GOCACHE="$out/cache"
source=$GOPATH/src/github.com/vmware/govmomi/simulator
replaced=
for file in authorization_manager.go property_collector.go snapshot.go task.go virtual_machine.go; do
    cp "$source/$file" "$out/simulator/"
    replaced="$replaced\"$source/$file\": \"$out/simulator/$file\", "
done
patch --quiet --directory "$out/simulator" --strip 1 <"$here/simulator/debian.patch"
printf '{"Replace": {%s"%s": "%s"}}\n' "$replaced" "$source/zz_ours.go" "$here/simulator/extension.go" >"$out/overlay.json"
go build -o "$out/plain" "$here/main.go"
go build -tags extended -overlay "$out/overlay.json" -o "$out/extended" "$here/main.go" "$here/extended.go"

#!/bin/sh
# Measures HTTP under load: the http_rpc example and the same work on hyper, alternately, in three
# rounds. One core runs the server and its workers. The other core runs wrk with 64 keep-alive
# connections, each with one small request under way. Requires wrk.
# SECONDS_EACH is the length of one measurement (default 4).
set -eu
cd "$(dirname "$0")/../.."
target=${CARGO_TARGET_DIR:-target}
cargo build --quiet --release -p sockman-http-rpc
cargo build --quiet --release --manifest-path benches/http/Cargo.toml --target-dir "$target/http-peer"
work=$(mktemp -d)
taskset -c 0 "$target/release/http_rpc" --listen 127.0.0.1:18332 --cookie "$work/cookie" \
    --max-connections 100 >"$work/log" &
ours=$!
taskset -c 0 "$target/http-peer/release/http-peer" 127.0.0.1:18333 &
peer=$!
trap 'kill $ours $peer 2>/dev/null; wait; rm -rf "$work"' EXIT
# The server writes the cookie before it prints that line.
until grep -q cookie "$work/log"; do kill -0 $ours; done
cat >"$work/post.lua" <<LUA
wrk.method = "POST"
wrk.body = '{"jsonrpc":"2.0","method":"uptime","id":1}'
wrk.headers["Authorization"] = "Basic $(base64 -w0 "$work/cookie")"
LUA
for round in 1 2 3; do
    for server in sockman:18332 hyper:18333; do
        printf '%s ' "${server%:*}"
        taskset -c 1 wrk -t1 -c64 "-d${SECONDS_EACH:-4}" --latency -s "$work/post.lua" \
            "http://127.0.0.1:${server#*:}/" |
            awk '/ Latency  /{max=$4} /99%/{p99=$2} /Requests\/sec/{rate=$2} /Non-2xx|Socket errors/{bad=1}
                 END{printf "%s requests/s, p99 %s, worst %s%s\n", rate, p99, max, bad ? ", FAILURES" : ""}'
    done
done

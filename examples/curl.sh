#!/bin/sh
# An event stream, a publish and a long poll. The server needs --sse-port.
set -eu
: "${TOKEN:?is not set: take the token that the server prints}"
room=${URL:-http://127.0.0.1:8081}/rooms/lobby

# A token does not belong on a command line, which every user of the machine can read:
# curl reads it from standard input.
ask() { printf 'header = "Authorization: Bearer %s"\n' "$TOKEN" | curl -sS -K - "$@"; }

ask --data '"hello from curl"' "$room" # the answer has its seq
echo
ask "$room/poll?wait=0" # epoch and seq of the room, to go on from: ?after=EPOCH:SEQ
echo
ask --no-buffer "$room" # an event stream: each id is a cursor; ends with Ctrl-C

#!/bin/sh
# One night: sweep, judge it by the nights before, keep RETAIN runs.
#
#   nightly.sh SPEC RUNS        RUNS: folder that the nights lie in
#
# Exit code: that of `hwbench history` (1: something is worse), or of the sweep where it failed.
set -u
spec=$1
runs=$2
retain=${RETAIN:-180}
hwbench=${HWBENCH:-hwbench}
mkdir -p "$runs" || exit 2
exec 9>"$runs/.nightly.lock"
flock -n 9 || { echo "nightly.sh: the last night still runs" >&2; exit 2; }
night="$runs/$(date -u +%Y%m%dT%H%M%SZ)"
"$hwbench" sweep "$spec" --output "$night" >"$runs/last-sweep.txt" 2>&1 || {
    code=$?
    cat "$runs/last-sweep.txt" >&2
    exit "$code"
}
"$hwbench" history "$runs"
verdict=$?
# Names are times, so the oldest come first. Only folders with a run in them are removed.
for old in $(ls -1d "$runs"/2*T*Z 2>/dev/null | head -n "-$retain"); do
    [ -f "$old/run.json" ] && rm -rf "$old"
done
exit "$verdict"

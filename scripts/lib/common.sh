# shellcheck shell=bash
# Shared by scripts/setup, scripts/test and scripts/demo: where things are, stages with their seconds, messages. Sourced, never run.

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
# Everything that is fetched or built once: guest images, Python and npm clients. Safe to delete.
export LAZULI_CACHE=${LAZULI_CACHE:-$repo/.cache}
mkdir -p "$LAZULI_CACHE"; LAZULI_CACHE=$(realpath "$LAZULI_CACHE")
# scripts/setup puts the clients here: az, azcopy, python-sdk (a Python with the storage SDK).
export PATH=$LAZULI_CACHE/bin:$PATH:/usr/sbin:/sbin

say() { printf '%s\n' "$*"; }
die() { printf '\n%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# stage NAME COMMAND...: runs it, and prints its name before and its seconds after. A command that fails ends the script (set -e,
# which holds in functions only where nobody asks for their status: so the failure is told by the trap at the script's end).
stage_times=()
stage_name='' stage_start=''
stage() {
  stage_name=$1 stage_start=$EPOCHREALTIME; shift
  printf '\n=== %s\n' "$stage_name"
  "$@"
  local seconds
  seconds=$(elapsed "$stage_start")
  stage_times+=("$(printf '%8s s  %s' "$seconds" "$stage_name")")
  printf '=== %s: %s s\n' "$stage_name" "$seconds"
  stage_name=''
}

# stage_failed: for the trap at the script's end; tells of the stage that did not end.
stage_failed() {
  [ -z "$stage_name" ] || printf '=== %s FAILED after %s s\n' "$stage_name" "$(elapsed "$stage_start")" >&2
}
trap stage_failed EXIT

# stage_summary: what each stage took.
stage_summary() { printf '\n'; printf '%s\n' "${stage_times[@]}"; }

# elapsed START: seconds since START (an EPOCHREALTIME), with one decimal.
elapsed() {
  local now=$EPOCHREALTIME tenths
  tenths=$(( (${now/[.,]/} - ${1/[.,]/}) / 100000 ))
  printf '%d.%d' $((tenths / 10)) $((tenths % 10))
}

# patiently WHAT LOG COMMAND...: runs it with its output in LOG, and says every 15 seconds that it still works.
patiently() {
  local what=$1 log=$2 start=$SECONDS pid status=0 ticks=0; shift 2
  "$@" > "$log" 2>&1 &
  pid=$!
  while kill -0 "$pid" 2>/dev/null; do
    sleep 0.2; ticks=$((ticks + 1))
    [ $((ticks % 75)) -ne 0 ] || say "  ... $what, $((SECONDS - start)) s" >&2
  done
  wait "$pid" || status=$?
  return "$status"
}

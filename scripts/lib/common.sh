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

# stage NAME COMMAND...: runs it, and prints its name before and its seconds after; ends the script where it fails.
stage_times=()
stage() {
  local name=$1 start=$EPOCHREALTIME seconds status=0; shift
  printf '\n=== %s\n' "$name"
  "$@" || status=$?
  seconds=$(elapsed "$start")
  stage_times+=("$(printf '%8s s  %s' "$seconds" "$name")")
  if [ "$status" -ne 0 ]; then
    printf '=== %s FAILED after %s s (exit %s)\n' "$name" "$seconds" "$status"
    exit "$status"
  fi
  printf '=== %s: %s s\n' "$name" "$seconds"
}

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

# shellcheck shell=bash
# What the cases are written with: a server, and checks that are counted. Sourced by run, never run.
#
# A check runs a real client, says what it proves, and never ends the run; the client's words are shown where it fails.

passed=0 failed=0 server='' out='' err=''
: "${work:=}" "${data:=}" "${lazuli:=}" "${exchanges:=}"

# end PID...: with all that they have started.
end() {
  local pid
  for pid in "$@"; do
    # shellcheck disable=SC2046  # a word a process
    end $(pgrep -P "$pid" || true)
    kill "$pid" 2>/dev/null || true
  done
}

# A broken exit would leave machines running, and what cases have put into the background: everything that was started is ended here.
finish() {
  local status=$? helpers
  trap - EXIT
  helpers=$(jobs -p | grep -vx "${server:-none}" || true)
  # shellcheck disable=SC2086  # a word a process
  end $helpers
  "$lazuli" stop --data-dir "$data" --guests --force >/dev/null 2>&1 || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  if grep -hE 'panicked at|ERROR' "$work/serve.log" "$data/host/host.log" 2>/dev/null | grep -v 'the host process cannot' > "$work/defects"; then
    say 'in the logs:'; sed 's/^/  /' "$work/defects" | head -n 20
    ! grep -q 'panicked at' "$work/defects" || no 'a panic in the log'
  fi
  [ -z "${LAZULI_KEEP:-}" ] || { say "kept: $work"; work=''; }
  [ -z "$work" ] || rm -rf "$work"
  printf '%d passed, %d failed\n' "$passed" "$failed"
  [ "$failed" -eq 0 ] || [ "$status" -ne 0 ] || status=1
  exit "$status"
}

# start_server [ARGUMENT...]: with these arguments more; its machines live on between two servers.
start_server() {
  "$lazuli" serve --data-dir "$data" --listen 127.0.0.1:0 --record "$exchanges" "$@" > "$work/ready" 2>> "$work/serve.log" &
  server=$!
  for _ in $(seq 1200); do
    [ -s "$work/ready" ] && return
    kill -0 "$server" 2>/dev/null || die "lazuli serve ended: $(tail -n 5 "$work/serve.log")"
    sleep 0.1
  done
  die "lazuli serve is not ready: $(tail -n 5 "$work/serve.log")"
}

stop_server() { kill "$server"; wait "$server" 2>/dev/null || true; }

# credential NAME: an entry of credentials.json.
credential() { python3 -c 'import json, sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$data/credentials.json" "$1"; }

ok() { passed=$((passed + 1)); printf '  ok    %s\n' "$1"; }
no() {
  failed=$((failed + 1)); printf '  FAIL  %s\n' "$1"
  [ -z "${2:-}" ] || printf '%s\n' "$2" | tail -n 12 | sed 's/^/        /'
}

# try COMMAND...: its output in $out, its errors in $err, its status.
try() {
  local status=0
  out=$("$@" 2> "$work/err") || status=$?
  err=$(cat "$work/err")
  return "$status"
}

# works WHAT COMMAND...: it succeeds.
works() {
  local what=$1; shift
  if try "$@"; then ok "$what"; else no "$what" "$* ($?)
$out
$err"; fi
}

# gives WHAT EXPECTED COMMAND...: it succeeds and prints exactly this.
gives() {
  local what=$1 expected=$2; shift 2
  if try "$@" && [ "$out" = "$expected" ]; then ok "$what"; else no "$what" "$*
expected: $expected
printed:  $out
$err"; fi
}

# refuses WHAT PATTERN COMMAND...: it fails, and its words match.
refuses() {
  local what=$1 pattern=$2; shift 2
  if try "$@"; then no "$what" "$* succeeded: $out"; return; fi
  if grep -qE -- "$pattern" <<< "$err"; then ok "$what"; else no "$what" "$*
expected: $pattern
$err"; fi
}

# holds WHAT TEST...: a condition of the shell.
holds() { local what=$1; shift; if "$@"; then ok "$what"; else no "$what" "$*"; fi; }

# until_true SECONDS COMMAND...: asks until it succeeds.
until_true() {
  local deadline=$((SECONDS + $1)); shift
  until "$@" >/dev/null 2>&1; do
    [ "$SECONDS" -lt "$deadline" ] || return 1
    sleep 0.5
  done
}

#!/bin/sh
# Creates the missing secrets, of 256 random bits each, in the given folder or /run/secrets. Existing ones stay as they are, except
# that a blank one counts as missing: Redis and ClickHouse would take it, and let everybody in. The containers run under accounts of
# their own, so everybody who can enter the folder can read the files: the containers that mount it and, if it is not a volume of the
# container engine, whoever can enter the folders above it. Put it into a folder of mode 0700; the container engine can mount it
# nevertheless.
#
# A server must see its own password and nothing else, and Prometheus the token of the metrics. So each is copied to the folder that
# is named after its server, where there is one, in the second given folder or /run/servers.
set -eu
cd "${1:-/run/secrets}"
for name in clickhouse_password postgres_password redis_password api_token metrics_token seal_key; do
  grep -qs '[^[:space:]]' "$name" && continue
  # The file appears complete or not at all, even if the script is interrupted. What an interrupted run has left cannot be written.
  rm -f "$name.new"
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$name.new"
  chmod 0444 "$name.new"
  mv "$name.new" "$name"
done

# Puts a file in place of the old copy: the container may hold the folder mounted.
hand_over() {
  rm -f "$1.new"
  printf %s "$2" > "$1.new"
  chmod 0444 "$1.new"
  mv "$1.new" "$1"
}
for server in clickhouse postgres redis; do
  folder="${2:-/run/servers}/$server"
  [ -d "$folder" ] || continue
  # The roles ignore the end of the line, whichever it is; the servers would not.
  password=$(tr -d '\r' < "${server}_password")
  # Redis would refuse to start and write the first line to its log, PostgreSQL would take that line alone.
  if [ "$(printf '%s\n' "$password" | wc -l)" -ne 1 ]; then
    echo "${server}_password has several lines: a password is one line" >&2
    exit 1
  fi
  hand_over "$folder/password" "$password"
done
folder="${2:-/run/servers}/prometheus"
if [ -d "$folder" ]; then
  # The roles accept each of several, Prometheus sends the whole file: the first is the new one.
  hand_over "$folder/metrics_token" "$(tr -s '[:space:]' '\n' < metrics_token | sed -n '/./{p;q;}')"
fi

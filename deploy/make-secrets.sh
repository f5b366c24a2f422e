#!/bin/sh
# Makes the secrets that are missing, of 256 random bits each. Those that are there stay as they are.
# The folder, /run/secrets unless named, is readable by the containers that mount it and by nobody else.
set -eu
cd "${1:-/run/secrets}"
for name in clickhouse_password postgres_password redis_password api_token seal_key; do
  [ -s "$name" ] && continue
  # Whole or not at all, whenever this is interrupted. The servers run under accounts of their own and must read it.
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$name.new"
  chmod 0444 "$name.new"
  mv "$name.new" "$name"
done

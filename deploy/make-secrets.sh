#!/bin/sh
# Makes the secrets that are missing, of 256 random bits each. Those that are there stay as they are.
# They go into the folder that is named, or /run/secrets. The servers run under accounts of their own, so that everybody may read
# them who can enter the folder: the containers that mount it and, where it is no volume of the engine's, whoever may pass the
# folders above it. Lay it in one of mode 0700; the engine mounts it all the same.
set -eu
cd "${1:-/run/secrets}"
for name in clickhouse_password postgres_password redis_password api_token seal_key; do
  [ -s "$name" ] && continue
  # Whole or not at all, whenever this is interrupted.
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$name.new"
  chmod 0444 "$name.new"
  mv "$name.new" "$name"
done

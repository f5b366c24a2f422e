#!/bin/sh
# Creates the missing secrets, of 256 random bits each, in the given folder or /run/secrets. Existing ones stay as they are. The
# servers run under accounts of their own, so everybody who can enter the folder can read the files: the containers that mount it
# and, if it is not a volume of the container engine, whoever can enter the folders above it. Put it into a folder of mode 0700;
# the container engine can mount it nevertheless.
set -eu
cd "${1:-/run/secrets}"
for name in clickhouse_password postgres_password redis_password api_token seal_key; do
  [ -s "$name" ] && continue
  # The file appears complete or not at all, even if the script is interrupted.
  od -An -N32 -tx1 /dev/urandom | tr -d ' \n' > "$name.new"
  chmod 0444 "$name.new"
  mv "$name.new" "$name"
done

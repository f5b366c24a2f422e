#!/bin/sh
# Starts Redis in its container. The password must be in a configuration file: on the command line everybody on the machine could
# read it.
set -eu
{
  cat /etc/redis.conf
  # In quotes these two characters alone have a meaning.
  printf 'requirepass "%s"\n' "$(sed 's/[\\"]/\\&/g' /run/secrets/password)"
  # Half of what the container may use: connections need room too, and profiles that grow leave gaps, which took up to 0.7 times as
  # much again when measured. Redis would not know the limit and be killed at it.
  limit=$(cat /sys/fs/cgroup/memory.max 2> /dev/null || cat /sys/fs/cgroup/memory/memory.limit_in_bytes)
  [ "$limit" = max ] || echo "maxmemory $((limit / 2))"
} > /tmp/redis.conf
exec redis-server /tmp/redis.conf

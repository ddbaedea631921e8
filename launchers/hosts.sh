#!/bin/sh
# Train on the hosts of a file, reached by ssh: one rank for each line, with all cores of its host as threads.
#
# usage: launchers/hosts.sh HOSTS OUT [flags of tinygpt train ...]
#
# HOSTS has a host name or address on each line; lines that begin with # are skipped. tinygpt must be installed at the
# same path on all hosts. OUT and the text to learn from are on a file system that all hosts share. If OUT holds a run,
# that run is resumed and the other flags are not used.
set -eu
hosts=$1
out=$2
shift 2
if [ -f "$out/run.toml" ]; then
    set -- --resume
fi
ranks=$(grep -cv -e '^#' -e '^[[:space:]]*$' "$hosts")
exec mpiexec -f "$hosts" -ppn 1 -n "$ranks" tinygpt train --out "$out" "$@"

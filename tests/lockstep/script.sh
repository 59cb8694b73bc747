# SPDX-License-Identifier: MIT
# Typed at the default guest's shell in lockstep: forks, execs, pipes, compression, hashes, signals.
i=0; while [ $i -lt 40 ]; do /bin/true; (exit 3) || i=$((i + 1)); done; echo "=forks= $i"
seq 20000 >/tmp/s
for c in gzip bzip2; do $c -c /tmp/s | $c -dc | cmp - /tmp/s && echo "=$c= same"; done
echo "=sort= $(sort -r /tmp/s | sort -n | md5sum | cut -c 1-32)"
echo "=sha256= $(sha256sum /tmp/s | cut -c 1-64)"
echo "=awk= $(awk '{ s += 1 / $1 } END { printf "%.10f", s }' /tmp/s)"
echo "=pipe= $(cat /tmp/s | cat | cat | wc -l)"
sh -c 'kill -SEGV $$'; echo "=signal= $?"

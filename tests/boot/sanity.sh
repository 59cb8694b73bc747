# SPDX-License-Identifier: MIT
# Runs in the guest, typed in on its serial port (tests/boot/run): each line "=NAME= VALUE" is
# compared there. No tab in this file: the guest's shell would complete a word.
r() { echo "=$1= $2"; }

# Integers, vectors and x87 through programs that we did not write.
r sha256 "$(yes doppel | head -c 300000 | sha256sum | cut -c 1-64)"
r sha512 "$(yes doppel | head -c 300000 | sha512sum | cut -c 1-128)"
r md5 "$(yes doppel | head -c 300000 | md5sum | cut -c 1-32)"
cat /bin/busybox >/tmp/b
r gzip "$(gzip -c /tmp/b | gunzip -c | cmp - /tmp/b && echo same)"
r bzip2 "$(head -c 200000 /tmp/b | bzip2 -c | bunzip2 -c | cmp - /tmp/b 2>&1 | grep -c EOF)"
r xz "$(echo /Td6WFoAAArh+wyhAgAhARwAAAAQz1jM5JPfAHddADIbynnyu+JByw3i4yKFjL2/K6VCd0Sh2ap3LOsQy4lTFjHs+7vBkrXx7u/OKJVLOzNgKpRiswEF312eTLvf0O42YV0KVBIqdg5jw/7KpVXRdxJ5Ewy7itfaC3+vX9PpX+woy4XRlZiKfiqR8id19xnABoVvIjIAAACnELRfcOs6ELFnpncVZ6c3rULll8FOx646hSY+Do9qVAABqwHgpxIATmZS/7bp3xwCAAAAAApZWg== | base64 -d | unxz -c | sha256sum | cut -c 1-64)"
r float "$(awk 'BEGIN {
  x = 1; for (i = 0; i < 8; i++) x = (x + 2 / x) / 2; printf "%.13f ", x
  e = f = 1; for (i = 1; i < 20; i++) { f /= i; e += f } printf "%.14f ", e
  p = 0; q = 1; for (k = 0; k < 14; k++) { p += (4 / (8 * k + 1) - 2 / (8 * k + 4) - 1 / (8 * k + 5) - 1 / (8 * k + 6)) * q; q /= 16 }
  printf "%.14f", p }' 2>&1)"
r sum "$(awk 'BEGIN { for (i = 1; i <= 20000; i++) s += 1 / (i * i); printf "%.10f", s }')"
r integer "$(( (123456789 * 987654321) % 1000000007 )) $(( -7 / 2 )) $(( 1 << 62 ))"
r sort "$(seq 2000 | sort -r | sort -n | md5sum | cut -c 1-32)"

# Processes, pipes, signals.
i=0
while [ $i -lt 100 ]; do
  sh -c "exit $((i % 7))"
  n=$((${n:-0} + $?))
  i=$((i + 1))
done
r fork "$n"
r pipe "$(seq 5000 | cat | cat | cat | tail -n 1)"
r ps "$(ps | grep -c '[k]threadd')"
r trap "$(sh -c 'trap "echo caught" USR1; kill -USR1 $$; echo after' | tr '\n' ' ')"
sleep 100 &
kill $!
wait $!
r killed "$?"
sh -c 'kill -SEGV $$'
r segv "$?"
r alarm "$(timeout 1 sleep 30; echo $?)"
r devices "$(dd if=/dev/urandom bs=1k count=64 2>/dev/null | wc -c)"

# Time. Every clock that the kernel knows must agree with the timer that ends the sleep.
uptime_ms() { read u x </proc/uptime; echo "${u%.*}${u#*.}0"; }
cs=/sys/devices/system/clocksource/clocksource0
r clocks "$(cat $cs/available_clocksource | tr -d '\r')"
r clock "$(cat $cs/current_clocksource)"
for clock in kvm-clock hpet acpi_pm tsc; do
  echo $clock >$cs/current_clocksource
  a=$(uptime_ms)
  sleep 0.5
  r "sleep-$clock" "$(($(uptime_ms) - a))"
done
r date "$(date +%s)"
r rtc "$(hwclock -u -r >/dev/null && echo read)"

# What the kernel has to say about the machine under it.
r mtrr "$(grep -c uncachable /proc/mtrr)"
r errors "$(dmesg -r | grep '^<[0-3]>' | sed 's/^<.>\[[^]]*\] //' | tr '\n' '|')"
r memory "$(awk '/^MemTotal/ { print $2 }' /proc/meminfo)"
r end end

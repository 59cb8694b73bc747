# SPDX-License-Identifier: MIT
# Runs in a guest of doppel: doppel again, with a weight and a cap, in a cgroup v2 with the cpu
# controller. Says what its vCPU threads got, as =NAME= VALUE.
mkdir /cg
mount -t cgroup2 none /cg
echo "=controllers= $(cat /cg/cgroup.controllers)"
/t/cgroup_test 2>&1

# shared ARGS...: starts a guest that prints for ever; leaves its $pid and the cgroup $group
shared() {
    local before=" $(echo /cg/doppel.*) " tries=0
    /t/doppel run --console none --kernel /t/guest.elf --append f "$@" &
    pid=$! group=
    while [ -z "$group" ] && [ $tries -lt 100 ]; do
        for d in /cg/doppel.*; do
            case $before in *" $d "*) ;; *) [ -n "$(cat $d/cgroup.threads 2>/dev/null)" ] && group=$d ;; esac
        done
        tries=$((tries + 1))
        sleep 0.1
    done
}
used() { sed -n 's/^usage_usec //p' $1/cpu.stat; }
now() { # in us
    read -r up rest </proc/uptime
    echo $((${up%.*}${up#*.} * 10000))
}

shared --cpus 2 --cpu-cap 30 --cpu-weight 50
sleep 1
names=
for t in $(cat $group/cgroup.threads); do names="$names $(cat /proc/$pid/task/$t/comm | tr ' ' '-')"; done
echo "=threads=$names"
echo "=set= $(cat $group/cpu.max) $(cat $group/cpu.weight)"
start=$(now) before=$(used $group)
sleep 5
echo "=cap= $((($(used $group) - before) * 100 / ($(now) - start)))"
kill $pid
wait $pid
echo "=status= $?"

shared --cpu-weight 100
first=$pid low=$group
shared --cpu-weight 300
sleep 1
before=$(used $low) high=$(used $group)
sleep 8
before=$(($(used $low) - before)) high=$(($(used $group) - high))
echo "=ratio= $((high * 100 / before))"
kill $first $pid
wait
echo "=left= $(ls -d /cg/doppel.* 2>/dev/null | wc -l)"

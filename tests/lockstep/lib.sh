# SPDX-License-Identifier: MIT
# What tests/lockstep/run and soak share: the default guest in lockstep, its keyboard the pipe 3.
doppel=$BUILD/doppel tmp=${TMPDIR:-/tmp}/lockstep.$$
mkdir -p "$tmp"
trap 'rm -rf "$tmp"' EXIT

verdict() { # verdict NAME REASON: no reason, no fault
    if [ -z "$2" ]; then echo "ok $1"; else echo "not ok $1 - ${2//$'\n'/ | }"; fi
}

boot() { # boot APPEND ARGS...: in the background
    local append=$1
    shift
    mkfifo "$tmp/in"
    exec 3<>"$tmp/in"
    "$doppel" run --check lockstep --kernel "$GUEST/vmlinuz" --initrd "$GUEST/initrd.gz" \
        --append "$append" --stats="$tmp/stats" "$@" <"$tmp/in" >"$tmp/out" 2>"$tmp/err" 3>&- &
    pid=$!
}

type_script() {
    { echo 'cat >/tmp/t <<"EOF"'; cat tests/lockstep/script.sh; echo EOF
      echo 'sh /tmp/t 2>&1'; } >&3
}

booted() { # booted NAME: the guest powers off by itself
    local why=
    wait "$pid" || why="status $?: $(tail -n 1 "$tmp/err")"
    grep -q 'init reached' "$tmp/out" || why+=" init was not reached"
    verdict "$1" "$why"
}

value() { tr -d '\r' <"$tmp/out" | sed -n "s/^=$1= //p" | tail -n 1; } # value NAME

# The guest powers off after the script: status 0, all results right.
finish() { # finish NAME
    local pair why=
    wait "$pid"
    [ $? = 0 ] || why="doppel ended: $(tail -n 1 "$tmp/err")"
    verdict "$1/status" "$why"
    for pair in forks:40 gzip:same bzip2:same pipe:20000 signal:139 \
        "sort:$(seq 20000 | md5sum | cut -c 1-32)" "sha256:$(seq 20000 | sha256sum | cut -c 1-64)" \
        awk:10.4807282172; do
        why=
        [ "$(value "${pair%%:*}")" = "${pair#*:}" ] ||
            why="got '$(value "${pair%%:*}")', not '${pair#*:}'"
        verdict "$1/${pair%%:*}" "$why"
    done
    sed -n 's/^  "\(instructions\|wall_seconds\)": \(.*\),$/'"$1"': \1 \2/p' "$tmp/stats"
}

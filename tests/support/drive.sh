# SPDX-License-Identifier: MIT
# For tests that start a guest, wait for what it says and type: to be sourced by tests/AREA/run, from
# the top of the tree. $engine is the one under test, $dir a directory of the test's own.
doppel=$BUILD/doppel tmp=${TMPDIR:-/tmp}/drive.$$
patience=${patience:-300} # seconds for one thing to be said on a busy machine
debian=${DEBIAN:-build/debian}
mkdir -p "$tmp"
trap 'rm -rf "$tmp"' EXIT

verdict() { # verdict NAME REASON: no reason, no fault
    if [ -z "$2" ]; then echo "ok $engine/$1"; else echo "not ok $engine/$1 - ${2//$'\n'/ | }"; fi
}
equal() { # equal NAME WANTED GOT
    if [ "$2" = "$3" ]; then verdict "$1"; else verdict "$1" "got '$3', not '$2'"; fi
}
has() { # has NAME PATTERN: in what the guest said
    if grep -aqE -- "$2" "$dir/out"; then verdict "$1"; else
        verdict "$1" "no '$2': $(tail -n 3 "$dir/out" | tr -dc '[:print:]\n')"
    fi
}

# start ARGS...: starts it in the background, its keyboard the pipe $dir/in, open as 3.
start() {
    mkdir -p "$dir"
    mkfifo "$dir/in"
    : >"$dir/out" # expect may look before the shell below has made it
    exec 3<>"$dir/in"
    "$doppel" run --engine "$engine" "$@" <"$dir/in" >"$dir/out" 2>"$dir/err" 3>&- &
    pid=$!
}
# expect PATTERN [TIMES]: waits until so many lines of the guest match, and it still runs
expect() {
    local i
    for ((i = 0; i < patience * 5; i++)); do
        [ "$(grep -acE -- "$1" "$dir/out")" -ge "${2:-1}" ] && return
        kill -0 "$pid" 2>/dev/null || return
        sleep 0.2
    done
}
type_in() { printf '%s\n' "$@" >&3; }
stop() { # ends a guest that would go on for ever
    kill "$pid" 2>/dev/null
    wait "$pid"
}

# each TESTS...: runs test_NAME under each engine of ENGINES, JOBS at a time, and shows the results
# and, in the log, what each guest said.
each() {
    local test
    for engine in ${ENGINES:-interp}; do
        for test; do
            while [ "$(jobs -rp | wc -l)" -ge "${JOBS:-2}" ]; do wait -n; done
            dir=$tmp/$engine.$test
            (start=$SECONDS; "test_$test" >"$dir.res"; echo "$engine/$test: $((SECONDS - start)) s") &
        done
    done
    wait
    for test in "$tmp"/*.res; do
        for file in "${test%.res}"*/{out,err}; do
            [ -f "$file" ] || continue
            echo "# $file"
            sed 's/^/    /' "$file"
        done
    done
    cat "$tmp"/*.res
}

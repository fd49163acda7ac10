# Sourced by scripts/test and scripts/lowest: runs pytest, and again what failed, and names what needed that.

# The tests start some thousand processes of the package. Where the environment says that Python shall write no bytecode, as it does in many
# containers, each of them would compile all of it again, which is half of its start.
unset PYTHONDONTWRITEBYTECODE

# run_twice PYTHON [PYTEST ARGUMENT ...]: pytest with these arguments; its exit status, 0 where a second run passed.
run_twice() {
    local python=$1 status=0 first again mended
    shift
    # Without the cache of earlier runs, in which tests are that are gone by now.
    "$python" -m pytest --cache-clear "$@" || status=$?
    [ "$status" = 1 ] || return "$status"
    first=$(_failed "$python")
    # Several at a time crowd a small machine, and some tests hold things to a time. What fails alone as well is broken.
    echo "once more, one at a time, those that failed:"
    status=0
    "$python" -m pytest -q --last-failed || status=$?
    again=$(_failed "$python")
    mended=$(comm -23 <(sort <<<"$first") <(sort <<<"$again"))
    if [ -n "$mended" ]; then
        cat >&2 <<EOF

!!!!!!!!!!!!!!!!!!!!!!!!!!!!!! NEEDED A SECOND RUN !!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
$mended
Each is a defect to mend, of the test or of the code: it waits for luck, holds
something to a time that a busy machine does not keep, or depends on another test.
!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!!
EOF
    fi
    return "$status"
}

_failed() {
    "$1" -c 'import json, pathlib
found = pathlib.Path(".pytest_cache/v/cache/lastfailed")
print("\n".join(json.loads(found.read_text())) if found.exists() else "")'
}

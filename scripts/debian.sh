# Sourced by the other scripts: programs that come from Debian's packages.

# need_programs PURPOSE PROGRAM[:PACKAGE]...: install what is missing; 1, and what to type, where only somebody else can.
need_programs() {
    local purpose=$1 missing=() item policy=/usr/sbin/policy-rc.d ours=0 status=0
    shift
    for item in "$@"; do
        command -v "${item%%:*}" >/dev/null || missing+=("${item#*:}")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "$purpose: sudo apt-get install ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${missing[*]} ..." >&2
    apt-get update -qq
    if [ ! -e "$policy" ]; then
        # Debian starts a service when it installs one; nobody here wants it on its usual port.
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod +x "$policy"
        ours=1
    fi
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || status=1
    [ "$ours" = 0 ] || rm -f "$policy"
    return "$status"
}

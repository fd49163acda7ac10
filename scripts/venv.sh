# Sourced by the other scripts: makes a virtual environment and installs into it what is missing.

# make_venv DIRECTORY: an empty environment, where there is none.
make_venv() {
    local venv=$1
    [ ! -x "$venv/bin/python" ] || return 0
    python3 - <<'CHECK'
import sys
if sys.version_info < (3, 11):
    sys.exit(f"proxyd needs Python 3.11 or newer, this is {sys.version.split()[0]}")
CHECK
    if [ ! -w "$(dirname "$venv")" ]; then
        echo "can't write to $(cd "$(dirname "$venv")" && pwd), where $(basename "$venv") and var/ go: copy the checkout to where $(id -un) may" \
            "write, or make it writable" >&2
        exit 1
    fi
    if ! python3 -m venv "$venv" 2>/dev/null; then
        rm -rf "$venv"
        if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
            apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq python3-venv >/dev/null
            python3 -m venv "$venv"
        else
            echo "python3 can't make a virtual environment: sudo apt-get install python3-venv" >&2
            exit 1
        fi
    fi
}

# install_into DIRECTORY [EXTRA]: the package itself, editable, with constraints.txt; nothing where nothing changed.
install_into() {
    local venv=$1 extra=${2:-} stamp
    stamp="$venv/.installed${extra:+-$extra}"
    make_venv "$venv"
    if [ ! -e "$stamp" ] || [ setup.py -nt "$stamp" ] || [ constraints.txt -nt "$stamp" ]; then
        echo "installing into $venv ..." >&2
        # The other way of an editable install costs each start of Python 30 ms: it searches by a program, this one by a path.
        "$venv/bin/python" -m pip install -q --disable-pip-version-check -c constraints.txt --config-settings editable_mode=compat \
            -e ".${extra:+[$extra]}"
        touch "$stamp"
    fi
}

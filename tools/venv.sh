# Sourced by the scripts beside it, with $root set: makes sure that $root/.venv holds what a lock file names.

# Prints the first Python that will do, or says what to install.
find_python() {
    lacking=
    for candidate in "${MWW_HA_PYTHON:-}" python3.13 python3.12 python3 python3.11; do
        [ -n "$candidate" ] || continue
        "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || continue
        if "$candidate" -c 'import ensurepip, sqlite3, ssl, venv' 2>/dev/null; then
            printf '%s\n' "$candidate"
            return 0
        fi
        lacking=${lacking:-$("$candidate" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')}
    done
    if [ -n "$lacking" ]; then
        echo "mww-ha: this Python comes without venv" >&2
        echo "  Debian, Ubuntu: sudo apt install $lacking" >&2
    else
        echo "mww-ha: no Python 3.11, 3.12 or 3.13 found" >&2
        echo "  Debian 12 or newer, Ubuntu 24.04 or newer: sudo apt install python3 python3-venv" >&2
        echo "  Ubuntu 22.04: sudo apt install python3.11 python3.11-venv" >&2
        echo "  macOS: brew install python@3.13" >&2
        echo "  another one: MWW_HA_PYTHON=/path/to/python3.12 tools/mww-ha ..." >&2
    fi
    return 4
}

# ensure_venv LOCK: instant when the environment was finished from this very lock file.
ensure_venv() {
    cmp -s "$root/$1" "$root/.venv/installed-$1" && return 0
    if [ "$1" = requirements.lock ]; then # what the tests need holds all of it
        cmp -s "$root/requirements-dev.lock" "$root/.venv/installed-requirements-dev.lock" && return 0
    fi
    python=$(find_python) || exit 4
    "$python" "$root/tools/setup_venv.py" "$1" || exit $?
}

#!/bin/sh
# Make sure that a virtual environment holds ngdla, editable, with one of its extras.
#
#     sh tools/bootstrap.sh VENV PYTHON [EXTRA]
#
# PYTHON may be empty: then the usual names are tried. Without EXTRA the environment is only created. Run from the root
# of the checkout. A second run finds its stamp and returns at once; whatever is missing is said in one line.
set -eu

venv=$1 wanted=$2 extra=${3:-}
python=

fail() {
    printf 'ngdla: %s\n' "$*" >&2
    exit 1
}

# "3.11.4", or nothing where the name does not lead to a Python that runs (a pyenv shim, say).
version_of() {
    "$1" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null || :
}

# Set `python` to an interpreter that is new enough, and `version` to what it says it is.
find_python() {
    found=
    if [ -n "$wanted" ]; then
        set -- "$wanted"
    else
        set -- python3 python python3.14 python3.13 python3.12 python3.11
    fi
    for name in "$@"; do
        version=$(version_of "$name")
        case $version in
            3.1[1-9].* | 3.[2-9][0-9].* | [4-9].*) python=$name; return ;;
            '') ;;
            *) found="$found, $name is $version" ;;
        esac
    done
    [ -n "$found" ] || found=", nothing that runs under: $*"
    fail "Python >= 3.11 is needed; found${found#,}. Install one, or name it: make ... PYTHON=/path/to/python3"
}

# Nothing is kept of an environment that could not be completed: the next run starts afresh.
create_venv() {
    find_python
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
        fail "$venv is in the way and is not a virtual environment: move it, or choose another with make ... VENV=path"
    fi
    echo "creating $venv with Python $version"
    rm -rf "$venv"
    trap 'rm -rf "$venv"; exit 130' HUP INT TERM
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        error=$("$python" -m venv "$venv" 2>&1) || { rm -rf "$venv"; fail "$python -m venv $venv failed:" $error; }
    elif "$python" -c 'import pip, venv' 2>/dev/null; then  # Debian's python3-pip without python3-venv
        { "$python" -m venv --without-pip "$venv" &&
            "$python" -m pip --python "$venv/bin/python" install -qq pip; } >/dev/null 2>&1 || {
            rm -rf "$venv"
            fail "$python has no ensurepip and its pip could not fetch a pip for $venv: install" \
                "python${version%.*}-venv (Debian, Ubuntu), or check the network, then run make again"
        }
    else
        fail "$python (Python $version) lacks venv or ensurepip: install python${version%.*}-venv" \
            "(Debian, Ubuntu: apt install python${version%.*}-venv) or another Python, then run make again"
    fi
    trap - HUP INT TERM
}

install() {
    stamp=$venv/.ngdla-$extra
    # By content, not by date: a checkout may touch files, and a moved one must be installed anew.
    state="$PWD $(cat setup.cfg pyproject.toml | cksum)"
    [ "$(cat "$stamp" 2>/dev/null)" != "$state" ] || return 0
    echo "installing ngdla[$extra] into $venv (the first time this can take minutes)"
    log=$venv/pip.log
    if ! "$venv/bin/python" -m pip install -qq --editable ".[$extra]" >"$log" 2>&1; then
        fail "pip could not install ngdla[$extra]: $(sed -n 's/^ *ERROR: *//p' "$log" | tail -n 1)" \
            "-- check the network, set PIP_INDEX_URL to a package index or PIP_FIND_LINKS to a folder of wheels," \
            "and run make again (all that pip said: $log)"
    fi
    echo "$state" >"$stamp"
}

usable='import pip, sys; sys.exit(sys.version_info < (3, 11))'
"$venv/bin/python" -c "$usable" 2>/dev/null || create_venv
[ -z "$extra" ] || install

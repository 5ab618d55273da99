#!/bin/sh
# Sets swarm up on Linux and macOS (on Windows: scripts/setup.ps1, which runs this inside WSL2). Everything goes into one folder; nothing else is changed.
#
#   sh scripts/setup.sh [--into FOLDER] [--gpu] [--from WHEEL-OR-FOLDER] [--extra NAME]...
#
# --into FOLDER   the virtual environment to make, or to go on with (default: .venv of this checkout)
# --gpu           torch as PyPI has it, which on Linux brings CUDA (about 3 GB more). Without it: the build for CPUs, which is all that a CPU peer needs
# --from WHAT     what to install (default: this checkout, so that a `git pull` is enough to update)
# --extra NAME    an extra of the package as well, such as plot
# --dry-run       say what would be done
#
# SWARM_TORCH_INDEX names another index for torch's CPU build, PYTHON another python.
set -eu

here=$(cd "$(dirname "$0")/.." && pwd)
into="$here/.venv" source="$here" gpu=no extras="" dry=no

say() { printf '%s\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 2; }
do_it() { if [ "$dry" = yes ]; then say "would run: $*"; else "$@"; fi; }
pip() { do_it env PYTHONWARNINGS='ignore:Editable installation' "$into/bin/python" -m pip --quiet --disable-pip-version-check "$@"; }

while [ $# -gt 0 ]; do
    case $1 in
        --into) [ $# -gt 1 ] || fail "--into needs a folder"; into=$2; shift 2 ;;
        --from) [ $# -gt 1 ] || fail "--from needs a wheel or a folder"; source=$2; shift 2 ;;
        --extra) [ $# -gt 1 ] || fail "--extra needs a name"; extras="${extras:+$extras,}$2"; shift 2 ;;
        --gpu) gpu=yes; shift ;;
        --dry-run) dry=yes; shift ;;
        -h | --help) sed -n '2,13s/^# \{0,1\}//p' "$0"; exit 0 ;;
        *) fail "there is no option $1; see --help" ;;
    esac
done
[ -e "$source" ] || fail "there is no $source to install"

# --- is everything here that is needed? ---------------------------------------------------------------------------------------------------------------------

system=$(uname -s) machine=$(uname -m)
case $system in
    Linux | Darwin) ;;
    *) fail "$system is not supported; on Windows run scripts/setup.ps1, which uses WSL2" ;;
esac

find_python() {
    for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null 2>&1 && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    return 1
}
python=$(find_python) || fail "Python 3.11 or newer is needed: apt install python3 python3-venv, dnf install python3, or brew install python; or name one with PYTHON="
"$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python cannot make virtual environments: apt install python3-venv (Debian and Ubuntu leave that out)"

if [ "$system-$machine" != Linux-x86_64 ]; then
    # hivemind, which carries the network, has a wheel for Linux on x86-64 alone; elsewhere pip builds it, and p2pd with it.
    command -v go >/dev/null 2>&1 || fail "hivemind is built from source on $system $machine, which needs Go: brew install go, or apt install golang"
fi
command -v c++ >/dev/null 2>&1 || command -v g++ >/dev/null 2>&1 || command -v clang++ >/dev/null 2>&1 ||
    say "there is no C++ compiler: everything works, but a CPU decodes about half as fast (apt install g++, or xcode-select --install)"

# --- the environment ----------------------------------------------------------------------------------------------------------------------------------------

say "setting up $into with $python: about $([ "$gpu" = yes ] && echo 5 || echo 2) GB, and a few minutes"
[ -x "$into/bin/python" ] || do_it "$python" -m venv "$into"
constraints="$here/constraints.txt"
[ -f "$constraints" ] || constraints=""
installed() { pip install ${constraints:+--constraint "$constraints"} "$@"; }

# torch first and alone: of whatever asks for it later, pip finds that it is there. PyPI's package for Linux on x86-64 brings CUDA; the CPU build is elsewhere.
if [ "$gpu" = no ] && [ "$system-$machine" = Linux-x86_64 ]; then
    index=${SWARM_TORCH_INDEX:-https://download.pytorch.org/whl/cpu}
    installed --index-url "$index" torch || { say "torch's CPU build cannot be had from $index; taking what pip finds"; installed torch; }
else
    installed torch
fi

editable=""
[ -d "$source" ] && editable=--editable
installed ${editable:+"$editable"} "$source${extras:+[$extras]}"

# --- does it work? ------------------------------------------------------------------------------------------------------------------------------------------

do_it "$into/bin/swarm-serve" --help >/dev/null
say "ready. The commands are in $into/bin; for this shell: . $into/bin/activate"
say "  swarm-generate 'Once upon a time' --local 3 --show-route      a swarm of three peers on this machine"
say "  swarm-doctor MODEL --initial-peers ADDRESS                    can this machine help in a swarm?"

#!/usr/bin/env bash
# Set up everything odam_d2 needs; done in a blink when nothing has changed since the last time.
#
#   bash scripts/setup_env.sh            makes .venv in the repository and installs the locked versions into it
#   bash scripts/setup_env.sh --active   uses the virtual (or conda) environment that is active: what it already has
#                                        stays, torch above all; only what is missing comes from requirements.lock
#
#   ODAM_USE_ACTIVE_ENV=1                the same as --active, also for scripts/demo.sh and scripts/test.sh
#   PYTHON=/path/to/python3.11           the interpreter to make .venv from (3.10, 3.11 or 3.12)
#
# demo.sh and test.sh source this file; it leaves the environment's bin folder first on PATH.
set -euo pipefail
cd "$(dirname "$0")/.."

die() {
    echo "setup_env.sh: $*" >&2
    exit 1
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; }

version_of() { { "$1" -V || echo "missing"; } 2>/dev/null; }

find_python() { # sets $base_python
    if [ -n "${PYTHON:-}" ]; then
        base_python=$PYTHON
        supported "$PYTHON" || die "Python 3.10, 3.11 or 3.12 is needed, but PYTHON=$PYTHON is $(version_of "$PYTHON")."
        return
    fi
    for base_python in python3 python3.12 python3.11 python3.10; do
        if supported "$base_python"; then return; fi
    done
    die "Python 3.10, 3.11 or 3.12 is needed, but python3 is $(version_of python3): install one of them," \
        "or name it with PYTHON=/path/to/python3.11."
}

minor_version() { "$1" -c 'import sys; print(sys.version_info[:2])'; }

make_venv() { # .venv, unless a working one of the wanted Python is there
    if [ -e .venv/bin/pip ] && supported .venv/bin/python; then
        if [ -z "${PYTHON:-}" ] || [ "$(minor_version "$PYTHON")" = "$(minor_version .venv/bin/python)" ]; then return; fi
    fi
    find_python
    "$base_python" -c 'import venv, ensurepip' 2>/dev/null ||
        die "$base_python cannot make virtual environments: install its venv package (Debian and Ubuntu: python3-venv)."
    "$base_python" -m venv --clear .venv || die "this command failed: $base_python -m venv --clear .venv"
}

# Downloads go beside the environment: /tmp is often a small memory disk. The log tells why pip failed.
run_pip() {
    local log=$env_dir/setup_env.log failed=0
    rm -rf "$env_dir/setup_tmp" "$log"
    mkdir "$env_dir/setup_tmp"
    TMPDIR=$env_dir/setup_tmp "$env_python" -m pip --disable-pip-version-check --log "$log" "$@" || failed=1
    rm -rf "$env_dir/setup_tmp"
    if [ $failed = 0 ]; then
        rm "$log"
        return
    fi
    if grep -q 'No space left' "$log"; then
        die "the disk is full (failed: pip $*)."
    elif grep -qE 'connection broken by|Max retries exceeded' "$log"; then
        die "the package index cannot be reached: check the network, the proxy and PIP_INDEX_URL (failed: pip $*)."
    fi
    die "this command failed, see its message above: $env_python -m pip $*"
}

check_disk() { # the index's torch brings the CUDA libraries, also for a CPU: 7 GB, hardly more while installing
    if "$env_python" -c 'import sys; from importlib.util import find_spec; sys.exit(not find_spec("torch"))'; then return; fi
    local needed_gb=8 free_kb
    free_kb=$(df -Pk "$env_dir" | awk 'NR == 2 {print $4}')
    [ "$free_kb" -ge $((needed_gb * 1024 * 1024)) ] ||
        die "setting up needs $needed_gb GB of free disk in $env_dir, and there are $((free_kb / 1024 / 1024)) GB."
    # Where it is tight, do without pip's own copy of the downloads.
    [ "$free_kb" -ge $((12 * 1024 * 1024)) ] || export PIP_NO_CACHE_DIR=1
}

missing_requirements() { # what of requirements.lock to add to an environment somebody else made
    "$env_python" - <<'PYTHON'
import re
from importlib.metadata import distributions

def key(name):
    return re.sub(r"[-_.]+", "-", name).lower()

present = {key(d.metadata["Name"]): d.version for d in distributions() if d.metadata["Name"]}
for line in open("requirements.lock"):
    name = key(re.match(r"[\w.-]*", line)[0])
    if name == "torch" and name in present:
        print(f"torch=={present[name]}")  # nothing below may replace it
    elif "torch" in present and name.startswith(("nvidia-", "cuda-", "triton")):
        continue
    elif name.startswith("opencv-") and any(other.startswith("opencv-") for other in present):
        continue  # all of them install the same cv2
    elif name == "setuptools" or name not in present:
        print(line, end="")
PYTHON
}

install_detectron2() { # one built from source is used as it is
    if "$env_python" -c 'import detectron2' 2>/dev/null; then return; fi
    # The wheel says CPython 3.10, but odam_d2 needs only its Python part, which runs on any newer one.
    run_pip install --no-deps --only-binary=:all: --implementation cp --python-version 3.10 \
        --target "$("$env_python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \
        --require-hashes -r requirements-detectron2.txt
    "$env_python" -W ignore -c 'import detectron2.model_zoo, detectron2.modeling' ||
        die "Detectron2 was installed but cannot be imported, see the message above; try building it from source."
}

use_active=${ODAM_USE_ACTIVE_ENV:-0}
if [ "$(basename "$0")" = setup_env.sh ] && [ $# -gt 0 ]; then
    [ "$*" = --active ] || die "unknown arguments: $* (only --active is known)."
    use_active=1
fi
if [ "$use_active" = 1 ]; then
    env_dir=${VIRTUAL_ENV:-${CONDA_PREFIX:-}}
    [ -n "$env_dir" ] || die "no virtual environment is active: activate one, or leave out --active to get .venv."
    supported "$env_dir/bin/python" ||
        die "Python 3.10, 3.11 or 3.12 is needed, but the one in $env_dir is $(version_of "$env_dir/bin/python")."
    "$env_dir/bin/python" -m pip --version >/dev/null 2>&1 ||
        die "$env_dir has no pip: run $env_dir/bin/python -m ensurepip first."
else
    make_venv
    env_dir=$PWD/.venv
fi
env_python=$env_dir/bin/python

stamp="$(cat requirements.lock requirements-detectron2.txt pyproject.toml setup.py scripts/setup_env.sh | cksum) $("$env_python" -V) $PWD"
if [ "$(cat "$env_dir/odam_d2.stamp" 2>/dev/null)" != "$stamp" ]; then
    echo "Setting up $env_dir (the first time about 3 GB are downloaded)"
    check_disk
    # Old source packages are built with the locked setuptools: no second download in an isolated build. First and
    # small, it also shows at once whether the index can be reached.
    run_pip install --retries 1 "$(grep '^setuptools==' requirements.lock)"
    requirements=requirements.lock
    if [ "$use_active" = 1 ]; then
        requirements=$env_dir/setup_requirements.txt
        missing_requirements >"$requirements"
    fi
    # pip unpacks nothing before it has downloaded all that it was asked for; one large package at a time, the disk
    # never holds more than one of them twice.
    while read -r requirement; do
        run_pip install --no-deps "$requirement"
    done < <(grep -E '^(nvidia-|torch==|triton==)' "$requirements")
    run_pip install --no-build-isolation --use-pep517 -r "$requirements"
    install_detectron2
    run_pip install --no-deps --no-build-isolation -e .
    echo "$stamp" >"$env_dir/odam_d2.stamp"
    echo "Ready; to work in it yourself: source $env_dir/bin/activate"
fi
export PATH=$env_dir/bin:$PATH

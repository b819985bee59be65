# Finds or makes the Python that demo/run.sh and tests/run.sh use. Sourced, from the repository's root:
#
#     . demo/env.sh [requirements-dev.txt …]     # sets PYTHON
#
# The environment that is active serves if it holds what requirements.txt and the files named here ask for. Otherwise
# .venv does: it is made when missing, and given what it lacks, of torch the version in constraints.txt. pip shows what
# it downloads.

holds() { # holds PYTHON FILE…: are all requirements in the files installed there, in versions that will do?
    "$1" - "${@:2}" 2>/dev/null <<'PY'
import sys
from importlib.metadata import requires, version
from packaging.requirements import Requirement  # comes with transformers; without it something is missing anyway

def check(line, extra=""):
    requirement = Requirement(line)
    if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
        return
    assert requirement.specifier.contains(version(requirement.name), prereleases=True), line
    for name in requirement.extras:
        for needed in requires(requirement.name) or ():
            if "extra" in needed:
                check(needed, name)

assert sys.version_info >= (3, 11)
for path in sys.argv[1:]:
    for line in open(path):
        if line := line.split("#")[0].strip():
            check(line)
PY
}

say_size() { # what the install costs, where PyTorch is still to come
    "$PYTHON" -c 'import torch' 2>/dev/null && return
    cat >&2 <<'END'
To install: on Linux 2.8 GB to download and about twice that on disk, since pip takes PyTorch with CUDA there.
A CPU is enough for the demo and the tests. With PyTorch for CPUs it is 0.3 GB to download and 1.3 GB on disk. To have
that, stop with Ctrl-C and put PyTorch's CPU index before the same command:
    PIP_EXTRA_INDEX_URL=URL bash demo/run.sh
URL is what stands after --index-url at https://pytorch.org/get-started/locally for Linux, Pip, CPU.
END
}

find_python() {
    local files=(requirements.txt "$@") python
    for python in python python3; do
        if holds "$python" "${files[@]}"; then
            PYTHON=$(command -v "$python")
            return
        fi
    done
    PYTHON=$PWD/.venv/bin/python
    if [ ! -x "$PYTHON" ]; then
        for python in python3 python python3.14 python3.13 python3.12 python3.11 none; do
            "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && break
        done
        if [ "$python" = none ]; then
            echo "demo/env.sh: no Python 3.11 or newer on PATH; install one" >&2
            return 1
        fi
        echo "making .venv ($("$python" --version)) from ${files[*]}" >&2
        "$python" -m venv .venv || return 1
    fi
    if ! holds "$PYTHON" "${files[@]}"; then
        say_size
        "$PYTHON" -m pip install -c constraints.txt "${files[@]/#/-r}" >&2
    fi
}

find_python "$@"

#!/usr/bin/env bash
# Set up everything, then lint, build the documentation and run all tests. Arguments go to pytest:
# bash scripts/test.sh -m "not slow"
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/setup_env.sh

# Tests on real data skip themselves with a reason where the data is not at hand.
if [ -z "${DETECTRON2_DATASETS:-}" ] && [ -d ../shared/data ]; then
    DETECTRON2_DATASETS=$(cd ../shared/data && pwd)
    export DETECTRON2_DATASETS
fi

python -m ruff check .
python -m ruff format --check .
# A warning is an error. The build says what it does at every page, which matters only when it fails; and its authors
# announce a successor.
log=$(NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict 2>&1) || {
    echo "$log" >&2
    exit 1
}
echo "The documentation is in output/site/index.html"
python -m pytest "$@"

#!/usr/bin/env bash
# Set up everything, then lint and run all tests. Arguments go to pytest: bash scripts/test.sh -m "not slow"
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
python -m pytest "$@"

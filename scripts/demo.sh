#!/usr/bin/env bash
# Set up everything, then explain real photographs with both bundled detectors: bash scripts/demo.sh [image or folder ...]
set -euo pipefail

# Images are named from where the caller stands: make them absolute before leaving, and check them before any work.
for image in "$@"; do
    if [ ! -r "$image" ]; then
        echo "demo.sh: there is no readable image or folder '$image'" >&2
        exit 1
    fi
    shift
    set -- "$@" "$(cd "$(dirname "$image")" && pwd)/$(basename "$image")"
done
cd "$(dirname "$0")/.."
source scripts/setup_env.sh

# Photographs may be others than in the demo before, and its results were of those.
rm -rf output/demo/{maps,pages,sheets,faster_rcnn} output/demo/results.jsonl
mkdir -p output/demo/photos
python - <<'PYTHON'
from PIL import Image
from skimage import data

for name in ("astronaut", "chelsea", "coffee", "rocket"):  # these come inside scikit-image's wheel
    Image.fromarray(getattr(data, name)()).save(f"output/demo/photos/{name}.png")
PYTHON

python scripts/explain.py --config-file configs/demo/fcos_lite0.yaml \
    --input output/demo/photos "$@" --output output/demo --sheets
python scripts/explain.py --config-file configs/demo/faster_rcnn_lite0.yaml \
    --input output/demo/photos "$@" --output output/demo/faster_rcnn --sheets

echo
echo "Open in a browser, and click a box:"
echo "  $PWD/output/demo/index.html              (FCOS)"
echo "  $PWD/output/demo/faster_rcnn/index.html  (Faster R-CNN)"

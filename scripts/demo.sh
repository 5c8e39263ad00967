#!/usr/bin/env bash
# Set up everything, then explain real photographs with all bundled detectors, and a crowd: bash scripts/demo.sh [image or folder ...]
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

# FCOS, whose results are output/demo itself, and these, in folders of their own inside: names of configs/demo/*_nanodet_g.yaml.
others=(faster_rcnn retinanet)
folders=("${others[@]/#/output/demo/}")

# Photographs may be others than in the demo before, and its results were of those.
rm -rf output/demo/{maps,pages,sheets,results.jsonl,compare.html} "${folders[@]}"
mkdir -p output/demo/photos
python - <<'PYTHON'
from PIL import Image
from skimage import data

for name in ("astronaut", "chelsea", "coffee", "rocket"):  # these come inside scikit-image's wheel
    Image.fromarray(getattr(data, name)()).save(f"output/demo/photos/{name}.png")
PYTHON

python scripts/explain.py --config-file configs/demo/fcos_nanodet_g.yaml \
    --input output/demo/photos "$@" --output output/demo --sheets
for name in "${others[@]}"; do
    python scripts/explain.py --config-file "configs/demo/${name}_nanodet_g.yaml" \
        --input output/demo/photos "$@" --output "output/demo/$name" --sheets
done
python scripts/compare.py output/demo "${folders[@]}" --output output/demo/compare.html

# A crowd in which NMS loses somebody whom ODAM-NMS keeps, with a detector that ODAM-Train taught to look at one person.
crowd=crowd5_00009
python scripts/make_synthetic_crowd.py --root output/demo/crowds --splits demo
python scripts/explain_nms.py --config-file configs/odam_nms/fcos_nanodet_g_synthetic_odam_train.yaml \
    --input "output/demo/crowds/demo/images/$crowd.jpg" --output output/demo/crowd \
    --opts MODEL.FCOS.SCORE_THRESH_TEST 0.5 # surer than the config's, which is for AP

echo
echo "Open in a browser:"
echo "  $PWD/output/demo/compare.html  (all detectors side by side)"
echo "and click a box in:"
echo "  $PWD/output/demo/index.html  (fcos)"
for name in "${others[@]}"; do
    echo "  $PWD/output/demo/$name/index.html  ($name)"
done
echo "and see whom NMS would have removed from a crowd:"
echo "  $PWD/output/demo/crowd/${crowd}_pairs.png"

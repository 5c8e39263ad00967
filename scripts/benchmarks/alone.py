"""Detection and maps of some photographs, and nothing else: python -m benchmarks.alone CONFIG DEVICE PHOTOGRAPH ...

What ``odam explain`` is measured against, in a process of its own that begins as cold as that one.
"""

import json
import sys
import time
from pathlib import Path

from benchmarks.measure import synchronize
from odam_d2 import ODAMPredictor, load_config, read_image
from odam_d2.cli.common import prepare_for_network
from odam_d2.cli.explain import DEFAULT_TARGETS, explain_image


def main(config: str, device: str, *files: str) -> None:
    """Print the seconds that detection and maps take; those of loading do not count."""
    prepare_for_network()
    predictor = ODAMPredictor(load_config(config, ["MODEL.DEVICE", device]))
    explainer, targets = predictor.make_explainer(), predictor.resolve_targets(DEFAULT_TARGETS)
    seconds = []
    for file in files:
        image = read_image(file)
        start = time.perf_counter()
        explain_image(predictor, explainer, targets, Path(file), image)
        synchronize()
        seconds.append(time.perf_counter() - start)
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main(*sys.argv[1:])

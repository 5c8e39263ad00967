#!/usr/bin/env python
"""Front of :mod:`odam_d2.cli.check_hub_models`."""

import sys

from odam_d2.cli.check_hub_models import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Front of :mod:`odam_d2.cli.export_weights`."""

import sys

from odam_d2.cli.export_weights import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Front of :mod:`odam_d2.cli.make_synthetic_crowd`."""

import sys

from odam_d2.cli.make_synthetic_crowd import main

if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python
"""Front of :mod:`odam_d2.cli.convert_odgt`."""

import sys

from odam_d2.cli.convert_odgt import main

if __name__ == "__main__":
    sys.exit(main())

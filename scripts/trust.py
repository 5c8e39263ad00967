#!/usr/bin/env python
"""Front of :mod:`odam_d2.cli.trust`."""

import sys

from odam_d2.cli.trust import main

if __name__ == "__main__":
    sys.exit(main())

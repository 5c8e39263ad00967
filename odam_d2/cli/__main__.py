"""``python -m odam_d2.cli`` is ``odam``."""

import sys

from odam_d2.cli.main import main

# Processes that the commands start import this module again.
if __name__ == "__main__":
    sys.exit(main())

"""``python -m mtlbook.cli``."""

import sys

from mtlbook.cli import main

if __name__ == "__main__":
    sys.exit(main())

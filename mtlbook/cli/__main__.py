import sys

from mtlbook.cli import main

sys.exit(main())

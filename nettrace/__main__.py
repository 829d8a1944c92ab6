"""`python3 -m nettrace`."""

import sys

from .cli import main

sys.exit(main())

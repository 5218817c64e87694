"""``python -m fuzz``."""

import sys

from .workers import main

sys.exit(main())

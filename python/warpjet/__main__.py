"""python -m warpjet"""

import sys

from warpjet.cli import main

sys.exit(main())

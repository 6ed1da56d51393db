"""``python -m ftrect_ray``."""

import sys

from ftrect_ray.cli import main

sys.exit(main())

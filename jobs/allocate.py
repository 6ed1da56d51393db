"""Scaling law and design.

ray job submit --working-dir . -- python jobs/allocate.py STUDY.yaml -o RUN_DIR
"""

import sys

from ftrect_ray.cli import main

sys.exit(main(["allocate", *sys.argv[1:]]))

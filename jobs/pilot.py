"""Pilot fine-tunes under Ray Tune.

ray job submit --working-dir . -- python jobs/pilot.py STUDY.yaml -o RUN_DIR
"""

import sys

from ftrect_ray.cli import main

sys.exit(main(["pilot", *sys.argv[1:]]))

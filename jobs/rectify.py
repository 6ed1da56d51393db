"""The rectified estimate.

ray job submit --working-dir . -- python jobs/rectify.py STUDY.yaml -o RUN_DIR
"""

import sys

from ftrect_ray.cli import main

sys.exit(main(["rectify", *sys.argv[1:]]))

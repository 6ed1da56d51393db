"""The whole study as a cluster job.

ray job submit --working-dir . -- python jobs/run_study.py STUDY.yaml -o RUN_DIR
"""

import sys

from ftrect_ray.cli import main

sys.exit(main(["run", *sys.argv[1:]]))

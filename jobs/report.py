"""The report and its figures.

ray job submit --working-dir . -- python jobs/report.py STUDY.yaml -o RUN_DIR
"""

import sys

from ftrect_ray.cli import main

sys.exit(main(["report", *sys.argv[1:]]))

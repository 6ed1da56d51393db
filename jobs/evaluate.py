"""Designs replayed many times on a fully answered table.

ray job submit --working-dir . -- python jobs/evaluate.py STUDY.yaml --replications 1000 -o DIR
"""

import sys

from ftrect_ray.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))

"""Batch inference under Ray Data.

ray job submit --working-dir . -- python jobs/predict.py STUDY.yaml -o RUN_DIR
"""

import sys

from ftrect_ray.cli import main

sys.exit(main(["predict", *sys.argv[1:]]))

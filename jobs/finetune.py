"""Final fine-tunes under Ray Train and DeepSpeed.

ray job submit --working-dir . -- python jobs/finetune.py STUDY.yaml -o RUN_DIR
"""

import sys

from ftrect_ray.cli import main

sys.exit(main(["finetune", *sys.argv[1:]]))

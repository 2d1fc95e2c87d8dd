"""Make an nnU-Net dataset with pseudo-labels on the Ray cluster that this runs on; as `goat-ray pseudo-label`.

Run it as `ray job submit --working-dir . -- python jobs/pseudo_label.py --config run.yaml`.
"""

import sys

from goat_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["pseudo-label", "--address", "auto"]  # never a Ray of its own
    main()

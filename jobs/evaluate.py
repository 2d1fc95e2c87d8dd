"""Score label maps on the Ray cluster that this runs on; the options and exit codes of `goat-ray evaluate`.

Run it as `ray job submit --working-dir . -- python jobs/evaluate.py --config run.yaml`.
"""

import sys

from goat_ray.cli import main

if __name__ == "__main__":
    sys.argv[1:1] = ["evaluate", "--address", "auto"]  # never a Ray of its own
    main()

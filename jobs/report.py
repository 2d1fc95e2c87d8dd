"""Write the report over finished runs, where their storage is near; the options and exit codes of `goat-ray report`.

Run it as `ray job submit --working-dir . -- python jobs/report.py s3://bucket/run --out s3://bucket/report.html`.
"""

import sys

from goat_ray.cli import main

if __name__ == "__main__":
    sys.argv.insert(1, "report")
    main()

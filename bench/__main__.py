"""`python -m bench`: see bench/cli.py."""

import sys

# Nothing is imported at the top: the load generators' processes load this module again.
if __name__ == "__main__":
    from bench.cli import main
    from bench.guardian import guarded

    with guarded("ROOTSRV_BENCH_RUN"):
        sys.exit(main())

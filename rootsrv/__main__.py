"""`python -m rootsrv` is the `rootsrv` command."""

import sys

from rootsrv.cli import main

if __name__ == "__main__":
    sys.exit(main())

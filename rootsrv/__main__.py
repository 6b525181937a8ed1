"""`python -m rootsrv` is the `rootsrv` command."""

import sys

from rootsrv.commands.parser import main

if __name__ == "__main__":
    sys.exit(main())

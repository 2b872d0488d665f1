"""`python -m deploy.cli`, for a program that is not installed."""

import sys

from deploy.cli import main

if __name__ == "__main__":
    sys.exit(main())

"""`python -m backend`."""

import os
import sys

from backend.wsgi import main

if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:], os.environ))

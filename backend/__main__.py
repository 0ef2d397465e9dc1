"""`python -m backend`."""

import os
import sys

from backend.wsgi import main
from plugin_config.cli.closed_output import run_command

if __name__ == "__main__":
    run_command(lambda: main(sys.argv[1:], os.environ))

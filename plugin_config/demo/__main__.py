"""`python -m plugin_config.demo`: what `make demo` runs."""

import sys

from plugin_config.cli.main import main

if __name__ == "__main__":
    main(["demo", *sys.argv[1:]])

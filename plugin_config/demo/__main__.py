"""`python -m plugin_config.demo`: what `make demo` runs."""

import sys

from plugin_config.demo.run import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

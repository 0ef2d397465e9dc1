"""`python -m plugin_config.demo`: what `make demo` and `zeromask demo` run."""

import sys

from plugin_config.closed_output import run_command
from plugin_config.demo.run import demo

if __name__ == "__main__":
    run_command(lambda: demo.main(sys.argv[1:], prog_name="zeromask demo"))

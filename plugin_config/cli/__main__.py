"""`python -m plugin_config.cli`: the same as `zeromask`."""

from plugin_config.cli.main import main

if __name__ == "__main__":
    main()

"""`python -m backend`."""

from backend.wsgi import main

if __name__ == "__main__":
    raise SystemExit(main())

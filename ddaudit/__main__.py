"""``python -m ddaudit``: the command line."""

from ddaudit.cli import main

if __name__ == "__main__":
    main()

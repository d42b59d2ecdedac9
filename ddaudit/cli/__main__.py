"""``python -m ddaudit.cli``."""

from ddaudit.cli import main

if __name__ == "__main__":
    main()

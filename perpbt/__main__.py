"""`python -m perpbt` is `perpbt`: for environments whose scripts are not on the path."""

from perpbt.cli import main

if __name__ == "__main__":
    main()

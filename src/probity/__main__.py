"""`python -m probity`: the same as the `probity` command, for places where console scripts cannot run."""

from probity.cli import main

if __name__ == "__main__":
    main()

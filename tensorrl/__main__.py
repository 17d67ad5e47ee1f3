"""`python -m tensorrl`: runs the command line with a chosen interpreter."""

from tensorrl.cli.app import main

if __name__ == "__main__":
    main()

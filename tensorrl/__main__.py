"""`python -m tensorrl`: the command line by the interpreter that is named."""

from tensorrl.cli.app import main

if __name__ == "__main__":
    main()

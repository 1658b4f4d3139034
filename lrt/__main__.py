"""`python -m lrt`."""

from lrt.cli.app import app

if __name__ == "__main__":
    app(prog_name="lrt")

"""The command line, and the demo."""

from starlette_otp.cli.commands import main

__all__ = ["main"]

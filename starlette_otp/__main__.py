"""`python -m starlette_otp` is `starlette-otp`."""

from starlette_otp.cli import main

main(prog_name="starlette-otp")

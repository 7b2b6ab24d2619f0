"""The benchmark: `python -m tests.benchmark`. It is no test, and pytest collects nothing here.

What a request costs with starlette-otp, beside the same site written by hand on asyncpg (`bare`,
the limit that ratios refer to), Starlette with SessionMiddleware alone (`plain`) and, where it is
installed, django-otp. `pip install -e '.[bench]'`, or `.[bench-django]` for Django, too.
"""

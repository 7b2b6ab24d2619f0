"""Passwords as other libraries hashed them: DjangoHasher, FlaskSecurityHasher (extra `django`).

They are hashers of pwdlib's. `OTP(password_hashers=[DjangoHasher()])` lets people in by them, and
hashes anew, by Argon2id, what was right.
"""

from starlette_otp.exceptions import install_hint, is_missing

try:
    import bcrypt as _bcrypt
except ImportError as exc:
    if not is_missing(exc, "bcrypt"):
        raise
    raise ModuleNotFoundError(
        f"starlette_otp.hashers needs {exc.name}: {install_hint('django')}",
        name=exc.name,
    ) from None

from starlette_otp.hashers.django import DjangoHasher
from starlette_otp.hashers.flask_security import FlaskSecurityHasher

__all__ = ["DjangoHasher", "FlaskSecurityHasher"]

del _bcrypt

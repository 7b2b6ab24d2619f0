"""Two-factor authentication with one-time passwords for Starlette and FastAPI."""

from starlette_otp.decorators import requires_otp
from starlette_otp.devices import (
    DeviceMixin,
    StaticDeviceMixin,
    StaticTokenMixin,
    TOTPDeviceMixin,
)
from starlette_otp.exceptions import (
    ConfigurationError,
    DatabaseUnavailable,
    DeliveryFailed,
    DeviceRejected,
    OTPError,
    SecretUnreadable,
    TransactionRequired,
)
from starlette_otp.forms import (
    LogoutForm,
    OTPAuthenticationForm,
    OTPAuthenticationFormMixin,
    OTPTokenForm,
)
from starlette_otp.middleware import OTPMiddleware
from starlette_otp.service import OTP
from starlette_otp.sessions import OTPSessionMixin, SessionAuthBackend, log_in, log_out, login
from starlette_otp.users import UserMixin, authenticate
from starlette_otp.views import LoginView, LogoutView

__all__ = [
    "OTP",
    "ConfigurationError",
    "DatabaseUnavailable",
    "DeliveryFailed",
    "DeviceMixin",
    "DeviceRejected",
    "LoginView",
    "LogoutForm",
    "LogoutView",
    "OTPAuthenticationForm",
    "OTPAuthenticationFormMixin",
    "OTPError",
    "OTPMiddleware",
    "OTPSessionMixin",
    "OTPTokenForm",
    "SecretUnreadable",
    "SessionAuthBackend",
    "StaticDeviceMixin",
    "StaticTokenMixin",
    "TOTPDeviceMixin",
    "TransactionRequired",
    "UserMixin",
    "authenticate",
    "log_in",
    "log_out",
    "login",
    "requires_otp",
]

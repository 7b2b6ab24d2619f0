"""The admin site that asks for a token, on sqladmin (extra `admin`)."""

from starlette_otp.exceptions import install_hint, is_missing

try:
    import segno as _segno
    import sqladmin as _sqladmin
except ImportError as exc:
    if not is_missing(exc, "segno", "sqladmin"):
        raise
    raise ModuleNotFoundError(
        f"starlette_otp.admin needs {exc.name}: {install_hint('admin')}",
        name=exc.name,
    ) from None

from starlette_otp.admin.login import OTPAdminAuthenticationForm, OTPAdminLoginView
from starlette_otp.admin.site import OTPAdmin
from starlette_otp.admin.views import DeviceAdmin, StaticDeviceAdmin, StaticTokenAdmin, UserAdmin

__all__ = [
    "DeviceAdmin",
    "OTPAdmin",
    "OTPAdminAuthenticationForm",
    "OTPAdminLoginView",
    "StaticDeviceAdmin",
    "StaticTokenAdmin",
    "UserAdmin",
]

del _segno, _sqladmin

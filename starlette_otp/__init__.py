"""Two-factor authentication with one-time passwords for Starlette and FastAPI."""

from starlette_otp.agents.browser import (
    agent,
    revoke_agent,
    revoke_other_agents,
    trust_agent,
    trust_session,
)
from starlette_otp.devices import (
    AgentMixin,
    ChallengeLimitMixin,
    DeviceMixin,
    EmailDeviceMixin,
    HOTPDeviceMixin,
    LoginThrottleMixin,
    OTPSessionMixin,
    SideChannelDeviceMixin,
    StaticDeviceMixin,
    StaticTokenMixin,
    TOTPDeviceMixin,
    UserMixin,
)
from starlette_otp.exceptions import (
    AgentRejected,
    ConfigurationError,
    DatabaseUnavailable,
    DeliveryFailed,
    DeviceRejected,
    OTPError,
    SecretUnreadable,
    TooManyAttempts,
    TooManyPending,
    TransactionRequired,
)
from starlette_otp.mailer import SMTPMailer
from starlette_otp.oath import secret_from_base32
from starlette_otp.otp import OTP
from starlette_otp.service.notices import Notice
from starlette_otp.service.passwords import PasswordQueue, authenticate
from starlette_otp.signals import (
    otp_admin_action,
    otp_agent_revoked,
    otp_agent_stolen,
    otp_agent_trusted,
    otp_challenge_sent,
    otp_device_added,
    otp_device_removed,
    otp_logged_in,
    otp_logged_out,
    otp_login_failed,
    otp_new_browser,
    otp_password_changed,
    otp_recovery_codes,
    otp_verification_failed,
    otp_verified,
)
from starlette_otp.web.backend import SessionAuthBackend
from starlette_otp.web.base_form import BaseForm
from starlette_otp.web.claims import session_claims
from starlette_otp.web.forms import (
    LogoutForm,
    OTPAuthenticationForm,
    OTPAuthenticationFormMixin,
    OTPTokenForm,
    PasswordForm,
)
from starlette_otp.web.guards import (
    RequiresOTPMiddleware,
    requires_otp,
    requires_trusted_agent,
    still_verified,
)
from starlette_otp.web.login import log_in, log_out, login
from starlette_otp.web.middleware import OTPMiddleware
from starlette_otp.web.notice import failures_before
from starlette_otp.web.verdict import device_due, is_verified, otp_device, session_id
from starlette_otp.web.views import LoginView, LogoutView

__all__ = [
    "OTP",
    "AgentMixin",
    "AgentRejected",
    "BaseForm",
    "ChallengeLimitMixin",
    "ConfigurationError",
    "DatabaseUnavailable",
    "DeliveryFailed",
    "DeviceMixin",
    "DeviceRejected",
    "EmailDeviceMixin",
    "HOTPDeviceMixin",
    "LoginThrottleMixin",
    "LoginView",
    "LogoutForm",
    "LogoutView",
    "Notice",
    "OTPAuthenticationForm",
    "OTPAuthenticationFormMixin",
    "OTPError",
    "OTPMiddleware",
    "OTPSessionMixin",
    "OTPTokenForm",
    "PasswordForm",
    "PasswordQueue",
    "RequiresOTPMiddleware",
    "SMTPMailer",
    "SecretUnreadable",
    "SessionAuthBackend",
    "SideChannelDeviceMixin",
    "StaticDeviceMixin",
    "StaticTokenMixin",
    "TOTPDeviceMixin",
    "TooManyAttempts",
    "TooManyPending",
    "TransactionRequired",
    "UserMixin",
    "agent",
    "authenticate",
    "device_due",
    "failures_before",
    "is_verified",
    "log_in",
    "log_out",
    "login",
    "otp_admin_action",
    "otp_agent_revoked",
    "otp_agent_stolen",
    "otp_agent_trusted",
    "otp_challenge_sent",
    "otp_device",
    "otp_device_added",
    "otp_device_removed",
    "otp_logged_in",
    "otp_logged_out",
    "otp_login_failed",
    "otp_new_browser",
    "otp_password_changed",
    "otp_recovery_codes",
    "otp_verification_failed",
    "otp_verified",
    "requires_otp",
    "requires_trusted_agent",
    "revoke_agent",
    "revoke_other_agents",
    "secret_from_base32",
    "session_claims",
    "session_id",
    "still_verified",
    "trust_agent",
    "trust_session",
]

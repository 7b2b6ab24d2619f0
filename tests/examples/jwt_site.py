"""A site that mints JWTs for another service, which says how its user was authenticated.

The service reads the claims; it looks at the session that a token came from, too, so that a token
is worth nothing once that has ended.
"""

from typing import Annotated, Any

import jwt
from fastapi import Depends, FastAPI, HTTPException, Request
from fastapi.security import HTTPBearer
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.middleware.sessions import SessionMiddleware

from starlette_otp import OTP, OTPMiddleware, SessionAuthBackend, clock, session_claims
from starlette_otp.fastapi import OTPRouter, otp_required

LIFETIME = 600
"""Seconds."""
bearer = HTTPBearer()


def make_site(otp: OTP[Any], secret_key: str) -> FastAPI:
    site = FastAPI(
        middleware=[
            Middleware(SessionMiddleware, secret_key=secret_key),
            Middleware(AuthenticationMiddleware, backend=SessionAuthBackend(otp)),
            Middleware(OTPMiddleware, otp=otp),
        ]
    )
    site.include_router(OTPRouter(otp), prefix="/auth")

    @site.post("/tokens", dependencies=[Depends(otp_required(if_configured=True))])
    async def mint(request: Request) -> dict[str, str]:
        """A JWT with RFC 8176's names in it."""
        now = int(clock.now().timestamp())
        claims = {
            "iss": "https://site.example",
            "sub": str(request.user.id),
            "iat": now,
            "exp": now + LIFETIME,
            **await session_claims(request),
        }
        return {"token": jwt.encode(claims, secret_key, "HS256")}

    async def two_factors(
        request: Request, given: Annotated[Any, Depends(bearer)]
    ) -> dict[str, Any]:
        """The claims of a token that two factors stand behind, and a session that lasts."""
        try:
            claims: dict[str, Any] = jwt.decode(
                given.credentials,
                secret_key,
                ["HS256"],
                issuer="https://site.example",
                options={"require": ["exp", "sub", "sid", "amr"]},
            )
        except jwt.InvalidTokenError:
            raise HTTPException(401, "The token is no good.") from None
        if "mfa" not in claims["amr"]:
            raise HTTPException(403, "Two factors are needed.")
        user = await otp.load_user(request, claims["sub"])
        rows = [] if user is None else await otp.sessions_for_user(user)
        if all(str(row.id) != claims["sid"] for row in rows):
            raise HTTPException(401, "The session has ended.")
        return claims

    @site.get("/service")
    async def service(claims: Annotated[dict[str, Any], Depends(two_factors)]) -> str:
        return f"user {claims['sub']} by {claims['acr']}"

    return site

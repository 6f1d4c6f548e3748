"""A Django backend of a mini-program, in one file.

    pip install mpauthx-async django uvicorn
    uvicorn django_app:application

Below /auth are login, me, sessions, rotate and logout. GET /about needs no login, GET /hello does.

Environment: MPAUTHX_APP_ID, MPAUTHX_APP_SECRET; MPAUTHX_SKU, MPAUTHX_USERS and MPAUTHX_TOKENS, if
the defaults below do not suit; MPAUTHX_API_BASE for a simulator. DJANGO_ALLOWED_HOSTS, such as
"api.example.com", where it is not localhost that serves.
"""

import os

from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpRequest, JsonResponse
from django.urls import path

from mpauthx_async import MPAuthX
from mpauthx_async.web.asgi import MPAuthXMiddleware

settings.configure(
    ALLOWED_HOSTS=os.environ.get("DJANGO_ALLOWED_HOSTS", "localhost,127.0.0.1").split(","),
    MIDDLEWARE=["mpauthx_async.web.django.MPAuthXMiddleware"],  # sets request.mpauthx
    ROOT_URLCONF=__name__,
)

auth = MPAuthX(
    app_id=os.environ.get("MPAUTHX_APP_ID", ""),
    app_secret=os.environ.get("MPAUTHX_APP_SECRET", ""),
    api_base=os.environ.get("MPAUTHX_API_BASE"),
    sku=os.environ.get("MPAUTHX_SKU", "shop"),
    users=os.environ.get("MPAUTHX_USERS", "sqlite:///users.db"),
    tokens=os.environ.get("MPAUTHX_TOKENS", "sqlite:///tokens.db"),
)


async def about(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"name": "shop"})


async def hello(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"user_id": request.mpauthx.user_id})


urlpatterns = [path("about", about), path("hello", hello)]

# Django has no lifespan. The middleware around it has, and closes auth at shutdown.
application = MPAuthXMiddleware(get_asgi_application(), auth, prefix="/auth", exclude=("/about",))

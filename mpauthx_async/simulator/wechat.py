"""WeChat: the servers, which answer all requests."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from urllib.parse import parse_qsl

from aiohttp import web

from .app_access import AppAccess
from .component import Component
from .error_answers import Refused, api_error, sns_error
from .faults import Fault, fail, respond
from .mini_program import MiniProgram
from .push import Pusher
from .routes import SECRET_PARAMETERS, Answer, Call, Request, Route, to_json
from .state import State
from .web_oauth import SCOPES, WebOAuth
from .wecom import WeCom

__all__ = ["WeChat"]

_FORM = "application/x-www-form-urlencoded"


class WeChat:
    """WeChat's servers from one reset to the next.

    Attributes:
        latency: seconds between a request's effect and its answer.
        requests: the last 1,000 requests, oldest first.
        faults: how the next requests to the API fail.
        routes: those of the API, by path.
        push: creates the requests that WeChat posts to an app's own URL.
    """

    def __init__(
        self,
        apps: Mapping[str, str],
        clock: Callable[[], float],
        *,
        calls_a_minute: float,
        component_app_id: str,
        corp_id: str,
        corp_secret: str,
        strict_methods: bool,
    ) -> None:
        self.latency: float = 0.0
        self.requests: deque[Request] = deque(maxlen=1000)
        self.faults: deque[Fault] = deque()
        self.state: State = State(apps, clock)
        self.access: AppAccess = AppAccess(self.state)
        self.mini_program: MiniProgram = MiniProgram(self.state, self.access, calls_a_minute)
        self.web_oauth: WebOAuth = WebOAuth(self.state, component_app_id)
        self.component: Component = Component(
            self.state, self.mini_program, self.web_oauth, component_app_id
        )
        self.wecom: WeCom = WeCom(self.state, corp_id, corp_secret)
        self.push: Pusher = Pusher(self.state)
        self.routes: Mapping[str, Route] = {
            route.path: route
            for route in (
                *self.mini_program.routes(),
                *self.access.routes(),
                *self.web_oauth.routes(),
                *self.component.routes(),
                *self.wecom.routes(),
            )
        }
        self._strict_methods = strict_methods

    async def answer(self, request: web.Request) -> web.Response:
        """Answer a request to any path: one of the API, a page, or errcode 40066."""
        if route := self.routes.get(request.path):
            return await self._call(request, route)
        if request.path in SCOPES and request.method == "GET":
            return await self._show_page(request)
        error = sns_error if request.path.startswith("/sns/") else api_error
        return respond(request.path, to_json(error(40066, self.state.clock())))

    async def _call(self, request: web.Request, route: Route) -> web.Response:
        call, answer = Call(request.query, await request.read()), route.answer
        is_lenient = request.method == "POST" and not self._strict_methods
        if is_lenient and route.takes_forms:
            call = _like_a_query(request, call)
        elif request.method != route.method and not (is_lenient and route.also_takes_post):
            answer = route.refuse_method
        self._record(request, call.query)
        fault = self.faults.popleft() if self.faults else None

        def error(errcode: int) -> Answer:
            return route.error(errcode, self.state.clock())

        body = "{}"
        if fault is None or fault.is_carried_out:
            try:
                body = to_json(answer(call))
            except Refused as refused:
                body = to_json(error(refused.errcode))
        await self._wait()
        if fault is None:
            return respond(request.path, body)
        return fail(request, fault, body, error)

    async def _show_page(self, request: web.Request) -> web.Response:
        self._record(request, request.query)
        page = self.web_oauth.visit(request.path, request.query)
        await self._wait()
        return page

    def _record(self, request: web.Request, parameters: Mapping[str, str]) -> None:
        query = {name: text for name, text in parameters.items() if name not in SECRET_PARAMETERS}
        self.requests.append(Request(request.path, query, request.method))

    async def _wait(self) -> None:
        if self.latency > 0:
            await asyncio.sleep(self.latency)


def _like_a_query(request: web.Request, call: Call) -> Call:
    """Add the fields of a form to the query, whose own fields win."""
    if request.content_type != _FORM:
        return call
    form = parse_qsl(call.body.decode(errors="replace"), keep_blank_values=True)
    return Call({**dict(form), **call.query})

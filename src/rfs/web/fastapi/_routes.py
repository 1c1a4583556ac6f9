"""
Route templates: the bounded name of the place that a request went to.

``/orders/17`` and ``/orders/18`` are ``/orders/{order_id}``; what no route claims is `UNMATCHED`, so that ten thousand random
addresses are one series.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from fastapi import routing
from starlette.routing import BaseRoute, Host, Mount

from rfs.web.fastapi._exchange import Scope

# Missing in FastAPI before included routers were resolved lazily: there an app's routes already have their prefixes.
_iter_route_contexts: Callable[[Sequence[BaseRoute]], Iterator[Any]] = getattr(routing, "iter_route_contexts", iter)

UNMATCHED = "__unmatched__"
OTHER_METHOD = "_OTHER"
METHODS = frozenset({"CONNECT", "DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT", "QUERY", "TRACE"})


def method_label(method: str) -> str:
    """*method* if it is one of HTTP's, else `OTHER_METHOD`."""
    return method if method in METHODS else OTHER_METHOD


def effective_routes(routes: Sequence[BaseRoute]) -> Iterator[Any]:
    """All routes below *routes*, with the prefix and dependencies that including routers give them."""
    return _iter_route_contexts(routes)


def route_template(scope: Scope, path: str, root_path: str) -> str:
    """
    The template of the route that handled *scope*, read after it was handled.

    Args:
        path, root_path: As they were when the request came in; a mount changes the scope's own.
    """
    route = scope.get("route")
    if route is not None and scope.get("root_path", "") == root_path:
        framework = scope.get("fastapi")
        if framework is not None:
            effective = framework.get("effective_route_context")
            # It also holds the mount that led to a route of another app.
            if effective is not None and effective.original_route is route:
                route = effective
        template = getattr(route, "path_format", None)
        if template is not None:
            return str(template)
    app = scope.get("app")
    # A mounted app has put itself in the place of the one that was asked.
    routes = getattr(scope.get("rfs_app", app), "routes", None)
    if routes is None:
        return UNMATCHED
    if root_path and path.startswith(root_path):
        path = path[len(root_path) :]
    return _search(routes, path, scope.get("method", "GET")) or UNMATCHED


def _search(routes: Iterable[BaseRoute], path: str, method: str) -> str | None:
    other_method: str | None = None
    for route in effective_routes(list(routes)):
        target = getattr(route, "original_route", route)
        if isinstance(target, Host):
            continue  # its pattern is of the host, not of the path
        regex = getattr(route, "path_regex", None)
        match = regex.match(path) if regex is not None else None
        if match is None:
            continue
        if isinstance(target, Mount):
            below = target.routes
            prefix = str(route.path)
            if not below:
                return f"{prefix}/{{path}}"
            template = _search(below, "/" + match.group("path"), method)
            return f"{prefix}{template}" if template is not None else None
        methods = getattr(route, "methods", None)
        if methods is None or method in methods:
            return str(route.path_format)
        other_method = other_method or str(route.path_format)
    return other_method

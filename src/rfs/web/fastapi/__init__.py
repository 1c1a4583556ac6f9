"""
RFS for FastAPI: `install` does everything; each part can also be used alone.

The names are also in their modules: ``errors``, ``types``, ``response_helpers``, ``dependencies``, ``middleware``, ``install``.
"""

from rfs.web.fastapi.access import DashboardAccess
from rfs.web.fastapi.dependencies import (
    ServiceNotRegisteredError,
    ServiceRegistry,
    clear_service_cache,
    get_service_instance,
    inject_result_service,
    register_service,
    result_dependency,
    service_scope,
)
from rfs.web.fastapi.errors import APIError, ErrorCode
from rfs.web.fastapi.install import Installation, install
from rfs.web.fastapi.middleware import (
    ErrorHandlerMiddleware,
    ExceptionToResultMiddleware,
    PerformanceMetricsMiddleware,
    RequestLoggingMiddleware,
    RequestMiddleware,
    ResultLoggingMiddleware,
    setup_result_middleware,
)
from rfs.web.fastapi.response_helpers import handle_flux_result, handle_result, serve_results
from rfs.web.fastapi.types import FastAPIFluxResult, FastAPIMonoResult, FastAPIResult

__all__ = [
    "APIError",
    "DashboardAccess",
    "ErrorCode",
    "ErrorHandlerMiddleware",
    "ExceptionToResultMiddleware",
    "FastAPIFluxResult",
    "FastAPIMonoResult",
    "FastAPIResult",
    "Installation",
    "PerformanceMetricsMiddleware",
    "RequestLoggingMiddleware",
    "RequestMiddleware",
    "ResultLoggingMiddleware",
    "ServiceNotRegisteredError",
    "ServiceRegistry",
    "clear_service_cache",
    "get_service_instance",
    "handle_flux_result",
    "handle_result",
    "inject_result_service",
    "install",
    "register_service",
    "result_dependency",
    "serve_results",
    "service_scope",
    "setup_result_middleware",
]

"""
RFS, Reactive Functional Services: a Python service that can be observed from inside its own process.

Import by topic: `rfs.core.result` for results, `rfs.reactive` for chains,
`rfs.monitoring` for records, metrics and alerts, `rfs.web.fastapi` for a web
service. Importing this package does no work and starts nothing.
"""

"""ClickHouse as the store of a `Monitor`: for many machines and services in one database (extra ``clickhouse``)."""

from rfs.monitoring._store.clickhouse import ClickHouseStore, cluster_schema

__all__ = ["ClickHouseStore", "cluster_schema"]

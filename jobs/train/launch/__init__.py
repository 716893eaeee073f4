"""Ranks: launched by Horovod inside the Spark session, and started again when they are lost.

With `exchange` the only room that imports Horovod, and only where there is more than one rank.
"""

"""What every room may use: errors and their exit codes, running a command, Spark's session
and its hash by NumPy, digests of code, buckets of quantiles.
"""

"""The server: the champion answers requests, with the numbers of the nightly scores. No Spark."""

"""What Petastorm 0.12 misses in today's Arrow, NumPy and Spark, for its modules only.

hook.py        loads Petastorm's modules with the names that Arrow and NumPy removed
dataset.py     Arrow's old ParquetDataset on today's API;  partitions.py, files.py its parts
path/          a folder for PYTHONPATH: interpreters that Petastorm and Spark start
"""

"""Millstream's jobs: raw -> examples -> stream -> model -> predictions.

    etl/        raw files become validated, split, encoded shards        (Spark)
    train/      the stream of shards trains a model on Horovod ranks     (Petastorm, torch, Horovod)
    evaluate/   a model is measured, gated, registered and scores dates  (Spark, torch, MLflow)

    nightly/    the steps of a night, done by date and put on record, so that a rerun goes on
    observe/    each run told to logs, metrics, lineage and a webhook
    init/       a first declaration and settings from a user's own file
    cli.py      the commands, shared with the three spark-submit files (`*/job.py`);  commands.py
    settings.py one frozen tree of settings;  sections.py its parts;  spark.py the session
    examples.py a version of the examples and its shards
    xxhash.py   Spark's hash, by NumPy
    lake.py     tables: read a version, commit (delta-rs);  manifest.py what a run wrote
    ledger.py   one row for each run, stage and date;  lock.py one writer a stage
    petastorm_arrow.py   Petastorm on today's Arrow;  petastorm_legacy/ what it misses there

Imports point down this list or within one job; `evaluate` uses `train`'s batch and models.
"""

"""Millstream's jobs: raw -> examples -> stream -> model -> predictions.

Imports point up this list, and within a room up its own; `tests/test_house.py` holds that.

    base/        errors and exit codes, the Spark session, digests, hashes
    stores/      files by their URLs: what a lake needs of a store, and each store's way
    rows/        the row engine: pieces of raw files to judged tables     (Arrow, DuckDB; no Spark)
      base/        names, types, the database in process
      read/        files listed, cut into pieces, parsed to texts
      judge/       types, parents, expressions, rules, values, identity
    settings/    one frozen tree of settings, from YAML and `--set`
    lake/        tables and commits, lock, ledger, manifest, examples, state
    etl/         raw files become validated, split, encoded shards        (Spark)
      raw/         the sources of a declaration and their files
      fit/         counts, the id log, states, expectations
      judge/       raw rows to judged rows in files of a run
      encode/      values to ids
      write/       shards, quarantine, the account of both
    batch/       batches of tensors, from Arrow
    models/      the models, and models as files                          (torch)
    registry/    versions of models, the champion                         (MLflow)
    train/       the stream of shards trains a model on Horovod's ranks
      order/       which row comes when: pure
      read/        shards to batches                                      (Petastorm)
      exchange/    what ranks add up                                      (Horovod)
      tables/      embedding tables in pieces, one a rank
      step/        a step, and the loop over them
      keep/        snapshot, checkpoint, resume, warm start
      launch/      ranks inside Spark                                     (Horovod)
      watch/       progress, curves, gauges
    tune/        trials find settings of training                         (Optuna)
      samplers/    the space, and who asks for the next trial
    evaluate/    a model is measured, gated, and scores dates             (Spark, torch)
      predict/     scores of rows
      export/      a model as ONNX or TorchScript
      measure/     metrics
      gate/        whether it may be the champion
      report/      the HTML report
    serve/       the champion answers requests                            (no Spark)
      request/     tensors and rows as clients write them
    observe/     each run told to logs, metrics, lineage and a webhook
    operations/  vacuum, retention, compact, erase
    nightly/     the steps of a night, on record, so that a rerun goes on
    init/        a first declaration and settings from a user's own file
    commands/    each command: its options, and the job that it runs
    main.py      `millstream COMMAND`

    petastorm_arrow.py   Petastorm on today's Arrow;  petastorm_legacy/ what it misses there
"""

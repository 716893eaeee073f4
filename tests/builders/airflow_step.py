"""Run by Airflow's interpreter: what the DAG's operator makes of spark-submit's exit codes.

    python airflow_step.py DAG_FILE

Prints, for each of its tasks, what it submits, and for each exit code the error that the first
task ends with. `spark-submit` in PATH ends with the code that SUBMIT_ENDS_WITH names.
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from datetime import timedelta


def main() -> None:
    spec = importlib.util.spec_from_file_location("nightly", sys.argv[1])
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    tasks = {
        task.task_id: {
            "arguments": task.application_args,
            "after": sorted(task.upstream_task_ids),
            "pool": task.pool,
            "retries": task.retries,
            "bounded": isinstance(task.execution_timeout, timedelta),
        }
        for task in module.dag.tasks
    }
    print(json.dumps({"tasks": tasks, "ends": {code: end_of(module, code) for code in range(6)}}))


def end_of(module: object, code: int) -> str:
    os.environ["SUBMIT_ENDS_WITH"] = str(code)
    (task,) = (task for task in module.dag.tasks if task.task_id == "etl")  # type: ignore[attr-defined]
    task._hook = None
    try:
        task.execute({})
    except Exception as error:
        return type(error).__name__
    return "done"


main()

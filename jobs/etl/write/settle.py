"""Settling the quarantine: what a run did to it that did not come to its last commit is undone.

The quarantine is committed before the table that its stage makes, whose commit names the
quarantine's version. A run that dies between the two has replaced rows that still count. So a
commit says that it awaits another, and the next writer puts back what was there before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from jobs.etl.write.quarantine import QUARANTINE, STAGE, StagedRefused
from jobs.lake.files import LiveFile
from jobs.lake.lake import Lake, TableName
from jobs.lake.ledger import record_lost
from jobs.lake.lock import StageLock
from jobs.rows.base.names import DS

# What a commit says: of which stage another has to name it; of which stage it undid a dead run's.
AWAITS, SETTLED = "awaits", "settled"
_LAST: dict[str, TableName] = {"etl": "examples", "score": "predictions"}


def standing_version(lake: Lake, stage: str) -> int:
    """The version of the quarantine whose rows of a stage count; -1 where there is no table."""
    table = lake.table("quarantine")
    found = newest = table.version()
    if newest < 0:
        return newest
    named = lake.table(_LAST[stage]).newest_info().get("versions", {}).get("quarantine", -1)
    if named == newest:
        return newest
    for version, info in sorted(table.infos(after=named).items(), reverse=True):
        own = info.get(AWAITS, info.get(SETTLED, stage)) == stage
        # Retention and erasures settle first, then take rows of all stages away for good.
        if own and AWAITS not in info:
            break
        if own:
            found = version - 1
    return found


def settle(lake: Lake, stage: str, lock: StageLock, run: str) -> None:
    """Puts the rows of a stage back that a dead run replaced."""
    table, version = lake.table("quarantine"), standing_version(lake, stage)
    record_lost(lake, "quarantine", table.newest_info())
    if version == table.version():
        return
    now, then = ({f.path: f for f in _of(table.files(v), stage)} for v in (None, version))
    changed = {f.partition[DS] for f in (now | then).values() if f.path not in now.keys() & then}
    if not changed:
        return
    before = [file for file in then.values() if file.partition[DS] in changed]
    back = StagedRefused(
        files=tuple(file.again() for file in before if file.path not in now),
        where={STAGE: [stage], DS: sorted(changed)},
        kept=tuple(file for file in before if file.path in now),
    )
    _replace(lake, stage, lock, back, run, SETTLED)


def _of(files: Sequence[LiveFile], stage: str) -> list[LiveFile]:
    return [file for file in files if file.partition[STAGE] == stage]


def replace_refused(
    lake: Lake, stage: str, lock: StageLock, refused: StagedRefused, run: str
) -> int:
    """Commits a run's refused rows, which count once its last commit names the version returned."""
    return _replace(lake, stage, lock, refused, run, AWAITS)


def _replace(
    lake: Lake, stage: str, lock: StageLock, refused: StagedRefused, run: str, key: str
) -> int:
    """One commit, or two: none can both remove a file and name it again."""
    table, columns = lake.table("quarantine"), [STAGE, DS]
    said = {"run": run, AWAITS if refused.kept else key: stage}
    lock.check()
    version = table.replace(
        refused.files, QUARANTINE, columns, refused.where, said, stage, lock.token
    )
    if refused.kept:
        lock.check()
        kept = [file.again() for file in refused.kept]
        version = table.add(kept, {"run": run, key: stage}, stage, lock.token)
    return version

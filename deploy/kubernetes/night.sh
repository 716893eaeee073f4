#!/usr/bin/env bash
# Creates the SparkApplication of a night, waits for its end, and ends with its driver's exit code.
#
#   night.sh TEMPLATE [DATE]        yesterday (UTC) by default
set -euo pipefail

template=$1
date=${2:-$(date -u -d yesterday +%F)}
name="millstream-night-$date"

# The one of an earlier try: the night itself goes on where that stopped.
kubectl delete sparkapplication "$name" --ignore-not-found --wait >/dev/null
sed "s/DATE/$date/g" "$template" | kubectl create -f -

field() { kubectl get sparkapplication "$name" -o "jsonpath={$1}"; }

# The job's activeDeadlineSeconds ends the wait.
while :; do
    # An answer that did not come is no end.
    state=$(field .status.applicationState.state || true)
    case $state in
    COMPLETED) exit 0 ;;
    FAILED | SUBMISSION_FAILED) break ;;
    esac
    sleep "${NIGHT_POLL_S:-10}"
done

message=$(field .status.applicationState.errorMessage)
echo "$name: $state: $message" >&2
# "driver container failed with ExitCode: 3, Reason: Error"
code=$(printf '%s' "$message" | sed -n 's/.*ExitCode: \([0-9]*\).*/\1/p' | head -1)
exit "${code:-1}"

#!/usr/bin/env bash
# Installs Debian's nginx, for the tests that put it before several servers.
set -euo pipefail
if command -v nginx > /dev/null || [ -x /usr/sbin/nginx ]; then
    exit 0
fi
as_root=$([ "$(id -u)" = 0 ] || echo sudo)
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends nginx-light > /dev/null

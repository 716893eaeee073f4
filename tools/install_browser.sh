#!/usr/bin/env bash
# Installs Debian's Chromium, for the tests that look at reports in a real browser.
set -euo pipefail
if command -v chromium > /dev/null || command -v google-chrome > /dev/null; then
    exit 0
fi
as_root=$([ "$(id -u)" = 0 ] || echo sudo)
$as_root apt-get update -qq
$as_root apt-get install -y -qq --no-install-recommends chromium > /dev/null

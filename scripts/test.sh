#!/usr/bin/env bash
# Runs the tests: installs what is missing, then calls pytest with the given arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/install.sh test
exec "$python" -m pytest "$@"

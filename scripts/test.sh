#!/usr/bin/env bash
# Runs the tests: installs what is missing, then calls pytest with the given arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=test
source scripts/install.sh
exec "$python" -m pytest "$@"

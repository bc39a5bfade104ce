#!/usr/bin/env bash
# Install what is missing, then run pytest with the given arguments.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=test
source scripts/install.sh
exec "$python" -m pytest "$@"

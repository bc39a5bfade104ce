#!/usr/bin/env bash
# From nothing to a Decision Transformer that plays Breakout: installs what is missing, then runs quickstart.py.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=
source scripts/install.sh
exec "$python" scripts/quickstart.py "$@"

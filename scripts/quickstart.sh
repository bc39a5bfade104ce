#!/usr/bin/env bash
# Install what is missing, then run quickstart.py: data, training and evaluation on Breakout in a few minutes.
set -euo pipefail
cd "$(dirname "$0")/.."
extras=
source scripts/install.sh
exec "$python" scripts/quickstart.py "$@"

#!/bin/bash
# What takes too long for every change, whole: hours.
set -euo pipefail
cd "$(dirname "$0")/.."
export KDC_DEEP=1
exec tests/test.sh

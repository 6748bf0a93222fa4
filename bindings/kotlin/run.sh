#!/usr/bin/env bash
# Compiles the generated Kotlin and runs its tests on the JVM:
#   bindings/kotlin/run.sh CDYLIB [maven arguments...]
# Generate first: bindings/generate.sh CDYLIB CRATE_DIR kotlin
set -euo pipefail
[ -f "${1:-}" ] || { echo "usage: kotlin/run.sh CDYLIB" >&2; exit 1; }
library_dir="$(cd "$(dirname "$1")" && pwd)"
shift
cd "$(dirname "${BASH_SOURCE[0]}")"
exec mvn --batch-mode --no-transfer-progress -Dstyle.color=never \
  -Dflashkit.library.dir="$library_dir" "$@" test </dev/null

#!/usr/bin/env bash
# Generates the bindings and runs the tests of Kotlin and TypeScript against a
# built library:  bindings/test.sh CDYLIB CRATE_DIR
set -euo pipefail
bindings_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
[ $# -eq 2 ] || { echo "usage: test.sh CDYLIB CRATE_DIR" >&2; exit 1; }
"$bindings_dir/generate.sh" "$1" "$2" kotlin typescript
"$bindings_dir/typescript/run.sh"
"$bindings_dir/kotlin/run.sh" "$1"

#!/usr/bin/env bash
# Type-checks the generated TypeScript with the tests and runs the tests in Node.
# Generate first: bindings/generate.sh CDYLIB CRATE_DIR typescript
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
[ -f generated/node/index.ts ] || { echo "typescript/run.sh: generate the bindings first" >&2; exit 1; }
compgen -G 'test/*.test.ts' >/dev/null || { echo "typescript/run.sh: no tests" >&2; exit 1; }
./install.sh
./node_modules/.bin/tsc -p tsconfig.check.json
# A promise that nobody settles must end the run, not hang it.
exec timeout 600 node --import tsx --test --test-timeout=120000 test/*.test.ts

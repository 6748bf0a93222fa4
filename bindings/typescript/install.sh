#!/usr/bin/env bash
# Installs exactly what package-lock.json says, if that is not there already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
stamp=node_modules/.installed-package-lock.json
if ! cmp -s package-lock.json "$stamp"; then
  # No package here needs its install script: esbuild's binary is a package of its own.
  npm ci --ignore-scripts --no-audit --no-fund >&2
  cp package-lock.json "$stamp"
fi

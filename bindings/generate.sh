#!/usr/bin/env bash
# Generates the foreign-language sources from a built cdylib.
#
#   bindings/generate.sh CDYLIB CRATE_DIR [LANGUAGE...]
#
#   CDYLIB     the library, built with the feature `ffi`: target/debug/libflashkit.so
#   CRATE_DIR  the crate it was built from (uniffi.toml and Cargo.lock are read there)
#   LANGUAGE   kotlin, typescript, swift, python; without any: kotlin typescript
#
# Needs Rust; for TypeScript also Node >= 20 with npm. No terminal, no other tool.
# The generators are compiled once per version, into $CARGO_TARGET_DIR/bindgen-*.
#
#   BINDINGS_OUT  write to $BINDINGS_OUT/LANGUAGE/generated instead of bindings/LANGUAGE/generated
set -euo pipefail

bindings_dir="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

die() { echo "generate.sh: $*" >&2; exit 1; }
say() { echo "generate.sh: $*" >&2; }

[ $# -ge 2 ] || die "usage: generate.sh CDYLIB CRATE_DIR [kotlin|typescript|swift|python ...]"
[ -f "$1" ] || die "no library at $1: build the crate with the feature 'ffi' first"
[ -f "$2/Cargo.toml" ] || die "no Cargo.toml in $2"
cdylib="$(cd "$(dirname "$1")" && pwd)/$(basename "$1")"
crate_dir="$(cd "$2" && pwd)"
shift 2
[ $# -gt 0 ] || set -- kotlin typescript
out_root="${BINDINGS_OUT:-$bindings_dir}"
target_dir="${CARGO_TARGET_DIR:-$crate_dir/target}"

# Warnings are errors for our own code only; the generators are other people's.
unset RUSTFLAGS
# Nobody debugs the generators, and they are built once.
export CARGO_PROFILE_DEV_DEBUG=0 CARGO_INCREMENTAL=0

uniffi_version() {
  awk '/^name = "uniffi"$/ { getline; gsub(/version = |"/, ""); print; exit }' "$crate_dir/Cargo.lock"
}

# The exact version that package.json pins for an npm package.
npm_pin() {
  node -p "const p=require('$bindings_dir/typescript/package.json');({...p.dependencies,...p.devDependencies})['$1']"
}

# Prints the path of the crate's own `uniffi-bindgen`. It is built in a target
# directory of its own: in the crate's, it would overwrite the cdylib with one
# that has other features.
uniffi_bindgen() {
  local version bin
  version="$(uniffi_version)"
  [ -n "$version" ] || die "no uniffi in $crate_dir/Cargo.lock"
  local dir="$target_dir/bindgen-uniffi-$version"
  bin="$dir/uniffi-bindgen"
  if [ ! -x "$bin" ]; then
    say "building uniffi-bindgen $version (once)"
    cargo build --quiet --locked --manifest-path "$crate_dir/Cargo.toml" --target-dir "$dir" \
      --no-default-features --features bindgen --bin uniffi-bindgen >&2
    cp "$dir/debug/uniffi-bindgen" "$bin.new" && mv "$bin.new" "$bin"
  fi
  echo "$bin"
}

install_npm_packages() {
  "$bindings_dir/typescript/install.sh"
}

# Prints the path of the TypeScript generator. npm delivers it as Rust source
# without a lock file, so it is built here, with ours.
ubrn() {
  local version package dir bin
  version="$(npm_pin uniffi-bindgen-react-native)"
  package="$bindings_dir/typescript/node_modules/uniffi-bindgen-react-native"
  dir="$target_dir/bindgen-ubrn-$version"
  bin="$dir/ubrn"
  if [ ! -x "$bin" ]; then
    say "building uniffi-bindgen-react-native $version (once, some minutes)"
    cp "$bindings_dir/typescript/ubrn.Cargo.lock" "$package/Cargo.lock"
    cargo build --quiet --locked --manifest-path "$package/crates/ubrn_cli/Cargo.toml" --target-dir "$dir" >&2
    cp "$dir/debug/uniffi-bindgen-react-native" "$bin.new" && mv "$bin.new" "$bin"
  fi
  echo "$bin"
}

generate_with_uniffi() { # LANGUAGE
  local bin out="$out_root/$1/generated"
  bin="$(uniffi_bindgen)"
  rm -rf "$out" && mkdir -p "$out"
  # It finds uniffi.toml by asking cargo about the crate it stands in.
  (cd "$crate_dir" && "$bin" generate "$cdylib" --language "$1" --no-format --out-dir "$out" >&2)
}

generate_typescript() {
  local bin pin uniffi out="$out_root/typescript/generated"
  install_npm_packages
  pin="$(npm_pin uniffi-bindgen-react-native)"
  for runtime in @ubjs/core @ubjs/node; do
    [ "$(npm_pin "$runtime")" = "$pin" ] || die "$runtime must be the generator's version, $pin"
  done
  uniffi="$(uniffi_version)"
  [ "${uniffi%.*}" = "$(cut -d. -f1,2 <<<"$pin")" ] || die "uniffi $uniffi needs a generator of its own line, not $pin"
  bin="$(ubrn)"
  rm -rf "$out" && mkdir -p "$out"
  # For Node: what the tests run. The path of the library is written into it.
  (cd "$crate_dir" && "$bin" generate napi bindings --no-format --ts-dir "$out/node" \
    --lib-absolute --library "$cdylib" >&2)
  # For React Native: what the turbo module is built from.
  (cd "$crate_dir" && "$bin" generate jsi bindings --no-format --ts-dir "$out/react-native/ts" \
    --cpp-dir "$out/react-native/cpp" --library "$cdylib" >&2)
  # Of a library without bindings it writes an index of nothing, and is content.
  compgen -G "$out/node/*-ffi.ts" >/dev/null && compgen -G "$out/react-native/cpp/*.cpp" >/dev/null \
    || die "typescript: no bindings were generated; was the library built with the feature 'ffi'?"
}

for language in "$@"; do
  case "$language" in
    kotlin | swift | python) generate_with_uniffi "$language" ;;
    typescript) generate_typescript ;;
    *) die "unknown language: $language" ;;
  esac
  count="$(find "$out_root/$language/generated" -type f -size +0 | wc -l)"
  [ "$count" -gt 0 ] || die "$language: nothing was generated; was the library built with the feature 'ffi'?"
  say "$language: $count files in $out_root/$language/generated"
done

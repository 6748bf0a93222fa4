# Everything that CI runs.
check:
    .ci/run

# One or more stages of CI: `just stage lint docs`.
stage +stages:
    .ci/run {{stages}}

fmt:
    cargo fmt

test:
    cargo test

quickstart *options:
    cargo run --example quickstart -- {{options}}

bindings:
    .ci/run tools bindings

# Ratios to bare SQLite and to append+fdatasync; a release build.
bench:
    cargo bench --bench durable_charge

deny:
    .ci/run deny

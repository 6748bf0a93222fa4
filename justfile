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

# A million taps that are replayed, forged or garbled, at every door.
taps:
    FLASHKIT_TAPS=1000000 cargo test --release --no-default-features --features sqlite --test fuzzed_taps -- --nocapture

# Brings each of the old failures back, one after the other: each is found. More than an hour; with a
# name only those that have it.
old-failures name='':
    FLASHKIT_OLD_FAILURE={{name}} cargo test --no-default-features --features sqlite --test old_failures -- --ignored --nocapture every_change_is_found

bindings:
    .ci/run tools bindings

# Ratios to bare SQLite, to append+fdatasync and to PostgreSQL's pgbench; what old books cost more
# than young ones. Release builds.
bench:
    cargo bench --no-default-features --features sqlite,testkit --bench durable_charge
    cargo bench --no-default-features --features sqlite,testkit --bench growth
    cargo bench --no-default-features --features sqlite,testkit --bench card_growth
    cargo bench --no-default-features --features sqlite,testkit --bench invoice_growth
    cargo bench --bench invoice_creation
    cargo bench --no-default-features --features sqlite,testkit --bench taps
    cargo bench --no-default-features --features sqlite,testkit,postgres --bench postgres

deny:
    .ci/run deny

//! Many cards at once: their programs, their issuer keys, and their coming over from elsewhere.

#[path = "../support/mod.rs"]
mod support;

mod breakage;
mod giving;
mod holders;
mod imports;
mod issuer_keys;
mod killed;
mod old_tills;
mod on_its_way;
mod rolled_back;
mod rules;
mod upgraded;
mod waiting;

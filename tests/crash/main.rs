//! Processes that are killed and power that fails: what was acknowledged is there, once.
//!
//! `FLASHKIT_CRASH_ROUNDS=5000 cargo test --test crash -- --nocapture killed` kills as often;
//! `FLASHKIT_CRASH_SEED` chooses the moments.

#[path = "../support/disk.rs"]
mod disk;
mod flushes;
mod killed;
mod log_end;
#[cfg(feature = "postgres")]
#[allow(dead_code, reason = "shared with other tests")]
#[path = "../support/postgres/mod.rs"]
mod postgres;
#[path = "../support/mod.rs"]
mod support;
mod worker;

/// Numbers that look random: Knuth's MMIX generator, its upper bits.
pub struct Chance(pub u64);

impl Chance {
    pub fn below(&mut self, limit: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

/// A number from the environment.
pub fn setting(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

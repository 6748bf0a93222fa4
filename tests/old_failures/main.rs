//! The failures of an older system, one test each, through the public handles. Beside each stands
//! what brings the failure back; the change itself is in `changes.rs`, which makes each and sees it found.

#[path = "../support/mod.rs"]
mod support;

mod amounts;
mod arriving;
mod changes;
mod leaving;
mod rewards_and_keys;
mod stage;

//! The failures of an older system, one test each, through the public handles. Beside each stands
//! the change of one line that brings the failure back; the test was seen to find it.

#[path = "../support/mod.rs"]
mod support;

mod amounts;
mod arriving;
mod leaving;
mod rewards_and_keys;
mod stage;

//! What tests of an embedding application need: everything real but the outside world.

pub mod faulty_store;

//! flashkit

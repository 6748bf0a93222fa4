//! What kind of shop a merchant is.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::SettlementError;

/// A merchant category code (ISO 18245): four digits, `5812` for restaurants. Which of them mean
/// something is the operator's to know.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MerchantCategory(u16);

impl fmt::Display for MerchantCategory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}", self.0)
    }
}

impl fmt::Debug for MerchantCategory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for MerchantCategory {
    type Err = SettlementError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_code = text.len() == 4 && text.bytes().all(|byte| byte.is_ascii_digit());
        let code = text.parse().ok().filter(|_| is_code);
        code.map(Self).ok_or(SettlementError::BadCategory)
    }
}

impl Serialize for MerchantCategory {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for MerchantCategory {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_category_is_four_digits() {
        for text in ["0000", "0742", "5812", "9999"] {
            assert_eq!(text.parse::<MerchantCategory>().unwrap().to_string(), text);
        }
        for text in ["", "581", "58122", "+581", "58a2", "5 12", "５８１２"] {
            assert!(text.parse::<MerchantCategory>().is_err(), "{text}");
        }
    }
}

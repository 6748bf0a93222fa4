//! Amounts and rates, as a person types them.

use flashkit::money::{Asset, Currency, Rate, format_minor, parse_minor};

pub fn run(data: &[u8]) -> bool {
    let Some((first, text)) = data.split_first() else {
        return false;
    };
    let Ok(text) = std::str::from_utf8(text) else {
        return false;
    };
    let codes = ["JMD", "JPY", "KWD", "USD"];
    let asset = match Currency::from_code(codes[usize::from(*first) % codes.len()]) {
        Ok(currency) if first % 5 != 0 => Asset::Fiat(currency),
        _ => Asset::Btc,
    };
    let mut decoded = false;
    if let Ok(minor) = parse_minor(asset, text) {
        // Without what is only for people: signs, units and commas.
        let mut written = format_minor(asset, minor);
        written.retain(|character| character.is_ascii_digit() || character == '.');
        assert_eq!(parse_minor(asset, &written), Ok(minor), "{written}");
        decoded = true;
    }
    if let Ok(rate) = text.parse::<Rate>() {
        assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
        decoded = true;
    }
    decoded
}
